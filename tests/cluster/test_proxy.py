"""What the proxy's middleware makes of replies, without Ray."""

import json

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from tradewind.cluster.proxy import InOurWords


async def replied(reply: Response, twice: bool = True) -> httpx.Response:
    """By way of it, with the request id that the API gave and the one that Serve adds."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        reply.raw_headers += [(b"x-request-id", b"mine")] * (2 if twice else 1)
        await reply(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(InOurWords(serve)), base_url="http://here") as http:
        return await http.get("/v1/models")


@pytest.mark.anyio
async def test_an_api_that_is_not_there_is_unavailable_in_the_apis_shape() -> None:
    reply = await replied(PlainTextResponse("Path '/v1/models' not found. Ping ...", 404), twice=False)
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "5")
    assert reply.headers.get_list("x-request-id") == ["mine"]
    assert json.loads(reply.content)["error"]["code"] == "server_is_overloaded"


@pytest.mark.anyio
@pytest.mark.parametrize("status", [200, 404])
async def test_what_the_api_says_is_left_but_for_the_second_id(status: int) -> None:
    reply = await replied(JSONResponse({"a": 1}, status))
    assert (reply.status_code, reply.json()) == (status, {"a": 1})
    assert reply.headers.get_list("x-request-id") == ["mine"]

"""Popular calls, answered before anybody asks again: when a server starts, and so after each change of its model.

They run one after the other at the lowest priority, for their own tenants, and what they make is kept like any answer. A
call whose model is no longer served is asked of the main one. Limits and metrics of calls do not see them.
"""

import asyncio
import logging
import time
from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import Message

from tradewind.caching.popular import Popular
from tradewind.serving.catalog import Catalog
from tradewind.serving.errors import ApiError
from tradewind.serving.keys import DEFAULT_TENANT, LAST, Principal
from tradewind.serving.meter import Meter
from tradewind.serving.wire import ChatRequest, CompletionRequest

log = logging.getLogger(__name__)
ENDPOINTS: dict[str, tuple[type[ChatRequest | CompletionRequest], str]] = {
    "/v1/chat/completions": (ChatRequest, "chatcmpl"),
    "/v1/completions": (CompletionRequest, "cmpl"),
}
"""Path -> its wire type, and how its replies' ids begin."""
REFUSED_S = 1.0
"""Pause where the server has too much to do: real calls go first."""
TRIES = 60
CALL_S = 600.0
"""That one call may take, behind all others."""


async def warm(catalog: Catalog, calls: Sequence[Popular]) -> None:
    """Until all are answered, or the task is cancelled."""
    begun, outcomes = time.monotonic(), list[str]()
    for call in calls:
        try:
            outcomes.append(await _asked(catalog, call))
        except Exception as error:  # one bad call is not the end of all
            outcomes.append("failed")
            log.info("a call to warm up with failed: %s", " ".join((str(error) or repr(error)).split())[:200])
    told = ", ".join(f"{outcomes.count(one)} {one}" for one in sorted(set(outcomes))) or "none"
    log.info("warmed up with %d calls in %.1f s: %s", len(calls), time.monotonic() - begun, told)


async def _asked(catalog: Catalog, call: Popular) -> str:
    """What the cache said. Raises ApiError, ValidationError, KeyError for a call that is none any more."""
    kind, prefix = ENDPOINTS[call.path]
    model = call.body.get("model")
    body = {**call.body, "priority": LAST}
    body["model"] = model if model in catalog.names else catalog.names[0]
    wire = kind.model_validate(body)
    for last in range(TRIES):
        meter = Meter(Principal("warming", call.tenant or DEFAULT_TENANT))
        try:
            async with asyncio.timeout(CALL_S):
                await catalog.answer(wire, prefix, Request(_scope(call.path, meter), _nothing))
        except ApiError as error:
            if error.status not in (429, 503) or last == TRIES - 1:
                raise
            await asyncio.sleep(REFUSED_S)
        else:
            return meter.cached or "bypass"
    raise AssertionError


def _scope(path: str, meter: Meter) -> dict[str, object]:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [],
        "query_string": b"",
        "state": {"meter": meter},
    }


async def _nothing() -> Message:
    """A client that stays."""
    await asyncio.Event().wait()
    raise AssertionError

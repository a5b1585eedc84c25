"""The table of errors: every code has a shape, a status and, where it may be tried again, a time for that."""

import json

import pytest

from tradewind.engine.requests import BadRequest, Closed, ContextTooLong, QueueFull, Refused
from tradewind.serving.errors import RETRY_AFTER, STATUS, WITHOUT_CODE, ApiError, refusal


@pytest.mark.parametrize("code", STATUS)
def test_the_shape_of_every_code(code: str) -> None:
    response = ApiError(code, "told", "field").response()
    status, kind = STATUS[code]
    assert response.status_code == status
    error = json.loads(bytes(response.body))["error"]
    assert error == {"message": "told", "type": kind, "param": "field", "code": None if code in WITHOUT_CODE else code}
    assert ("retry-after" in response.headers) == (code in RETRY_AFTER)


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.4, "1"), (7.2, "8"), (60.0, "60")])
def test_retry_after_is_in_whole_seconds_from_one(seconds: float, header: str) -> None:
    assert ApiError("slow_down", "told", retry_after=seconds).response().headers["retry-after"] == header


@pytest.mark.parametrize(
    ("error", "code", "param", "retry_after"),
    [
        (ContextTooLong(5, 5, 8), "context_length_exceeded", "messages", None),
        (BadRequest("empty"), "invalid_value", "messages", None),
        (QueueFull("full"), "slow_down", None, RETRY_AFTER["slow_down"]),
        (Closed("ending"), "server_is_overloaded", None, RETRY_AFTER["server_is_overloaded"]),
    ],
)
def test_refusals_of_the_scheduler(error: Refused, code: str, param: str | None, retry_after: float | None) -> None:
    made = refusal(error, "messages")
    assert (made.code, made.param, made.retry_after) == (code, param, retry_after)


def test_a_queue_that_knows_when_it_has_room_is_believed() -> None:
    error = QueueFull("full")
    error.retry_after = 3.5  # type: ignore[attr-defined]
    assert refusal(error, "messages").retry_after == 3.5

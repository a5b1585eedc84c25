"""An answer as bytes, and back: the events of one request in their order, so that a stream can be given again as it was.

Values in a shared store are sealed with HMAC-SHA256 over key, header and payload: who can write to the store but does not
know the secret cannot have an answer given. JSON, never pickle. Not covered: secrecy (the store reads along).
"""

import hashlib
import hmac
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from tradewind.engine.requests import Delta, Done, Event, PromptLogprobs, TokenLogprob

HEAD = struct.Struct(">4sdd")
MAGIC = b"TWc1"
MAC = 32
SEAL = HEAD.size + MAC
"""Bytes before the payload."""


@dataclass(frozen=True)
class Answer:
    """A whole answer. seconds: that it took to make; stored: when it was kept, in seconds since 1970."""

    events: tuple[Event, ...]
    seconds: float
    stored: float

    @cached_property
    def whole(self) -> tuple[Event, ...]:
        """For who does not stream: one delta for each of its texts, and all else as it was."""
        deltas: dict[int, list[Delta]] = {}
        for event in self.events:
            if isinstance(event, Delta):
                deltas.setdefault(event.index, []).append(event)
        others = [event for event in self.events[:-1] if not isinstance(event, Delta)]
        return (*others, *(_joined(parts) for parts in deltas.values()), self.done)

    @property
    def done(self) -> Done:
        end = self.events[-1]
        assert isinstance(end, Done)
        return end


def _joined(parts: Sequence[Delta]) -> Delta:
    return Delta(
        parts[0].index,
        "".join(one.text for one in parts),
        sum(one.tokens for one in parts),
        tuple(entry for one in parts for entry in one.logprobs),
        next((one.finish_reason for one in reversed(parts) if one.finish_reason), None),
        tuple(token for one in parts for token in one.ids),
    )


class BadValue(ValueError):
    """Bytes that hold no answer."""


class FromTheFuture(BadValue):
    """Sealed by a clock that is ahead of ours, or ours went back."""


def pack(answer: Answer) -> bytes:
    """Raises ValueError for a number that is not finite."""
    if not (math.isfinite(answer.seconds) and math.isfinite(answer.stored)):
        raise ValueError("an answer at no time")
    body = [answer.seconds, answer.stored, [_row(event) for event in answer.events]]
    try:
        return orjson.dumps(body)
    except TypeError:  # half a surrogate pair in a text, which is no UTF-8
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8", "surrogatepass")


def unpack(value: bytes) -> Answer:
    """Raises BadValue."""
    try:
        seconds, stored, rows = _read(value)
        events = tuple(map(_event, rows))
        times = float(seconds), float(stored)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise BadValue(str(error)) from None
    if not events or not isinstance(events[-1], Done) or any(isinstance(one, Done) for one in events[:-1]):
        raise BadValue("the answer has no end, or several")
    return Answer(events, *times)


def _read(value: bytes) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return json.loads(value.decode("utf-8", "surrogatepass"))


def seal(secret: bytes, key: bytes, payload: bytes, stored: float, expires: float) -> bytes:
    """Times are seconds since 1970."""
    head = HEAD.pack(MAGIC, stored, expires)
    return head + _mac(secret, key, head + payload) + payload


def unseal(secret: bytes, key: bytes, value: bytes, now: float) -> tuple[bytes, float]:
    """The payload, and the seconds that it may still be used; 0: past its end, also where the store kept it longer.
    Raises BadValue for what was not sealed for this key with this secret, FromTheFuture for what is not yet: the end of
    such a value says nothing by this clock."""
    head, mac, payload = value[: HEAD.size], value[HEAD.size : SEAL], value[SEAL:]
    if len(mac) < MAC or not hmac.compare_digest(mac, _mac(secret, key, head + payload)):
        raise BadValue("the seal is not ours")
    _, stored, expires = HEAD.unpack(head)
    if stored > now + SKEW_S:
        raise FromTheFuture(f"a value was stored {stored - now:.1f} s from now")
    return payload, max(0.0, expires - now)


SKEW_S = 5.0
"""By which a clock may seem to go back: of one clock, what its setting corrects; of several, what they differ by."""


def _mac(secret: bytes, key: bytes, text: bytes) -> bytes:
    return hmac.digest(secret, key + text, hashlib.sha256)


def _row(event: Event) -> list[Any]:
    if isinstance(event, Delta):
        ids, logprobs = list(event.ids), [_scored(one) for one in event.logprobs]
        return ["d", event.index, event.text, event.tokens, event.finish_reason, ids, logprobs]
    if isinstance(event, PromptLogprobs):
        return ["p", [_scored(one) for one in event.entries]]
    assert isinstance(event, Done)
    counts = event.accepted_prediction_tokens, event.rejected_prediction_tokens
    return ["e", event.prompt_tokens, event.completion_tokens, event.cached_tokens, *counts]


def _event(row: list[Any]) -> Event:
    kind, *held = row
    if kind == "d":
        index, text, tokens, reason, ids, logprobs = held
        if reason not in (None, "stop", "length") or not isinstance(text, str):
            raise ValueError(f"finish reason {reason!r}")
        return Delta(int(index), text, int(tokens), tuple(map(_entry, logprobs)), reason, tuple(map(int, ids)))
    if kind == "p":
        return PromptLogprobs(tuple(map(_entry, held[0])))
    if kind == "e":
        return Done(*map(int, held))
    raise ValueError(f"an event of kind {kind!r}")


def _scored(one: TokenLogprob) -> list[Any]:
    if not all(math.isfinite(value) for value in (one.logprob or 0.0, *(value for _, _, value in one.top))):
        raise ValueError("a logprob that is not finite")
    top = [[token, piece.decode("latin-1"), logprob] for token, piece, logprob in one.top]
    return [one.token, one.piece.decode("latin-1"), one.logprob, top, one.offset]


def _entry(row: list[Any]) -> TokenLogprob:
    token, piece, logprob, top, offset = row
    ranked = tuple((int(id_), text.encode("latin-1"), float(value)) for id_, text, value in top)
    return TokenLogprob(
        int(token), piece.encode("latin-1"), None if logprob is None else float(logprob), ranked, offset
    )

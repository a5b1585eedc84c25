"""What tells one cached answer from another: a digest of the whole request and of everything that its answer depends on.

Requests are compared as the engine gets them: token ids, so that two spellings of one prompt are one key; a seed or top-p
that greedy sampling does not look at counts for nothing. Fields of `Request` are keyed by default: a new one splits
keys until it is said here that it changes no answer.
"""

import hashlib
from dataclasses import asdict, fields, replace
from typing import Any

import orjson

from tradewind.engine.grammar import Grammar
from tradewind.engine.requests import Request
from tradewind.engine.sampling import SamplingParams

SCHEMA = 1
"""Of keys and values; another number makes all that is cached unknown."""
UNKEYED = ("priority", "deadline", "admitted")
"""Fields of a request that say when it runs, not what it answers."""
KEYED = tuple(one.name for one in fields(Request) if one.name not in UNKEYED)


def key_of(request: Request, identity: str) -> bytes:
    """SHA-256, 32 bytes. identity: of weights, precision, tokenizer, template, engine and its library."""
    held = {name: getattr(request, name) for name in KEYED}
    held["sampling"] = greedy_as_seen(request.sampling)
    text = orjson.dumps([SCHEMA, identity, held], default=_plain, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).digest()


def reproducible(request: Request) -> bool:
    """Whether asking again would give the same answer."""
    return request.sampling.temperature == 0 or request.sampling.seed is not None


def greedy_as_seen(sampling: SamplingParams) -> SamplingParams:
    """Without what greedy sampling does not look at."""
    if sampling.temperature != 0:
        return sampling
    return replace(sampling, seed=None, top_p=1.0, top_k=0, min_p=0.0)


def _plain(value: Any) -> Any:
    if isinstance(value, Grammar):
        return asdict(value.structure)
    raise TypeError(f"a request's {type(value).__name__} has no place in a key")

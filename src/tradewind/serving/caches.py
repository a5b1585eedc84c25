"""The response cache as the server has it: opened from the settings, asked by each call, told in its reply's headers.

`X-Cache: hit|miss|coalesced|bypass`, `Age` (seconds) with a hit, `X-Cache-Key` (16 characters of it) with one prompt;
`X-Cache: semantic` with `X-Cache-Similarity` where another question's answer was given.
"""

import logging
import os
import secrets
import tempfile
from contextlib import suppress
from dataclasses import replace

from fastapi import Request as HttpRequest

from tradewind.caching.call import CachedCall, worst
from tradewind.caching.directives import BadDirective, Directives
from tradewind.caching.memory import LocalStore
from tradewind.caching.observed import CacheMetrics
from tradewind.caching.response import CacheRules, ResponseCache, anchored
from tradewind.caching.semantic import Neighbour, SemanticCache, headers
from tradewind.caching.shared import RedisShared
from tradewind.engine.backend import Backend
from tradewind.engine.requests import Request
from tradewind.errors import UserError
from tradewind.serving.errors import ApiError
from tradewind.serving.meter import Meter
from tradewind.serving.metrics import Metrics
from tradewind.serving.semantic import Given, Watched, question_of
from tradewind.serving.settings import ServeSettings
from tradewind.serving.wire import ChatRequest, CompletionRequest
from tradewind.tracking import home

log = logging.getLogger(__name__)
NONE, MEMORY = "none", "memory"
SECRET_VARIABLE, SECRET_FILE = "TRADEWIND_CACHE_SECRET", "cache.secret"
SECRET_LENGTH = 16


def open_cache(settings: ServeSettings, metrics: Metrics) -> ResponseCache | None:
    """None where the settings want none. Raises UserError."""
    if settings.cache == NONE:
        return None
    local = LocalStore(settings.cache_mib << 20)
    rules = CacheRules(settings.cache_ttl_s, shared_by_tenants=settings.cache_scope == "all")
    clock = anchored()
    shared = None if settings.cache == MEMORY else RedisShared(settings.cache, secret())
    observer = CacheMetrics(metrics.registry, local, shared)
    return ResponseCache(local, rules, observer, shared, clock)


def secret() -> bytes:
    """What seals shared answers: TRADEWIND_CACHE_SECRET, which all servers of one store are given, or a file that is made
    with the first server of this home. Raises UserError for one that can be guessed."""
    given = os.environ.get(SECRET_VARIABLE)
    if given is not None:
        if len(given) < SECRET_LENGTH:
            raise UserError(f"{SECRET_VARIABLE} has fewer than {SECRET_LENGTH} characters")
        return given.encode()
    path = home() / SECRET_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:  # only its owner may read it
        file.write(secrets.token_hex(32))
        file.flush()
        with suppress(FileExistsError):  # whole from the moment that others see it
            os.link(file.name, path)
    held = path.read_text().strip()
    if len(held) < SECRET_LENGTH:
        raise UserError(f"{path} holds no secret: remove it, and a new one is made")
    return held.encode()


def directives_of(http: HttpRequest) -> Directives:
    """Raises ApiError for a header that cannot be read."""
    try:
        return Directives.of(", ".join(http.headers.getlist("cache-control")))
    except BadDirective as error:
        raise ApiError("invalid_value", f"Invalid value for Cache-Control: {error}.", "Cache-Control") from None


class CallCaches:
    """The caches as one HTTP call goes through them; None: not at all. Raises ApiError for a header that cannot be
    read."""

    def __init__(self, cache: ResponseCache | None, http: HttpRequest, semantic: SemanticCache | None = None) -> None:
        self._cache, self._semantic, self._calls = cache, semantic, dict[tuple[int, str], CachedCall]()
        self._tenant = Meter.of(http.scope).principal.tenant
        self._near: Neighbour | None = None
        self._directives = directives_of(http)

    def over(self, backend: Backend, identity: str, streams: bool) -> Backend:
        """The same for the same backend and identity."""
        if self._cache is None:
            return backend
        key = id(backend), identity
        if key not in self._calls:
            self._calls[key] = CachedCall(self._cache, backend, identity, self._directives, streams)
        return self._calls[key]

    async def meaning(
        self, backend: Backend, wire: ChatRequest | CompletionRequest, request: Request, identity: str
    ) -> Backend:
        """`backend` watched by the semantic cache, or for a tenant that opted in, perhaps an answer of that."""
        semantic = self._semantic
        if semantic is None or not isinstance(wire, ChatRequest) or self._directives.no_store:
            return backend
        asked = question_of(wire, request, self._tenant, identity)
        if asked is None:
            return backend
        own = replace(request, tenant=self._tenant)
        known = isinstance(backend, CachedCall) and backend.knows(own)
        if self._tenant in semantic.tenants and not known and not self._directives.no_cache:
            found = await semantic.look_up(asked)
            self._near = semantic.served(found, self._directives.max_age) if found is not None else None
        if self._near is not None:
            return Given(backend, self._near)
        return Watched(backend, semantic, asked, lambda: self.outcome in ("hit", "coalesced"))

    @property
    def outcome(self) -> str | None:
        """Once the first event is there."""
        asked = [one for call in self._calls.values() for one in call.asked]
        return "semantic" if self._near is not None else worst(asked) if asked else None

    @property
    def headers(self) -> dict[str, str]:
        if self._near is not None:
            return headers(self._near)
        asked = [one for call in self._calls.values() for one in call.asked]
        if not asked:
            return {}
        told = {"X-Cache": str(self.outcome)}
        if self.outcome == "hit":
            told["Age"] = str(int(max(one.age_s for one in asked)))
        if len(asked) == 1 and asked[0].key:
            told["X-Cache-Key"] = asked[0].key.hex()[:16]
        return told

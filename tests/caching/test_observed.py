"""What the cache tells Prometheus, of lookups that are given."""

import pytest
from prometheus_client import CollectorRegistry

from tradewind.caching.codec import Answer
from tradewind.caching.memory import LocalStore
from tradewind.caching.observed import CacheMetrics
from tradewind.engine.requests import Done

ANSWER = Answer((Done(3, 7, 0),), 2.5, 0.0)


@pytest.mark.parametrize(("outcome", "why", "tokens", "seconds"), [
    ("hit", "local", 7, 2.5), ("hit", "shared", 7, 2.5), ("coalesced", "elsewhere", 0, 0),
])  # fmt: skip
def test_only_hits_save(outcome: str, why: str, tokens: float, seconds: float) -> None:
    registry = CollectorRegistry()
    CacheMetrics(registry, LocalStore(1 << 20), None).looked_up(outcome, why, ANSWER, 1.0)
    name = "tradewind_response_cache"
    assert registry.get_sample_value(f"{name}_requests_total", {"outcome": outcome, "why": why}) == 1
    assert registry.get_sample_value(f"{name}_saved_tokens_total") == tokens
    assert registry.get_sample_value(f"{name}_saved_seconds_total") == seconds

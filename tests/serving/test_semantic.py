"""The semantic cache in the server: it watches and changes nothing, unless a tenant opted in."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.serving.conftest import Served, serving, until
from tests.serving.test_caches import CHAT, RING, ask, same
from tradewind.engine.mock import MockEngine
from tradewind.errors import UserError
from tradewind.serving.metrics import Metrics
from tradewind.serving.semantic import open_semantic
from tradewind.serving.settings import ServeSettings


class Letters:
    """A text's vector counts its letters: texts of the same letters are the same."""

    digest, dimensions, name, max_tokens = "letters", 26, "letters", 256

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        counts = np.array([[1e-3 + text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], np.float32)
        return np.asarray(counts / np.linalg.norm(counts, axis=1, keepdims=True), np.float32)


@contextmanager
def watching(monkeypatch: pytest.MonkeyPatch, **given: Any) -> Iterator[Served]:
    monkeypatch.setattr(
        "tradewind.serving.app.open_semantic",
        lambda settings, encoder, metrics: open_semantic(settings, LETTERS, metrics),
    )
    settings = ServeSettings(cache="memory", semantic="shadow", **given)
    with serving(MockEngine(slots=2, max_len=256), settings, RING) as served:
        yield served


LETTERS: Any = Letters()
PLAIN, RESPELT = "how do I listen to it", "How do I listen to it?"  # of the same letters


def chat(question: str, **given: Any) -> dict[str, Any]:
    return {
        "model": "mock",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 64,
        "stop": [" "],
        "temperature": 0,
    } | given


def told(served: Served, name: str) -> float:
    reply = ask_metrics(served)
    return sum(
        float(line.split()[-1]) for line in reply.splitlines() if line.startswith(f"tradewind_semantic_cache_{name}")
    )


def ask_metrics(served: Served) -> str:
    with served.http() as http:
        return http.get("/metrics", headers={"Authorization": "Bearer a1"}).text


def question(served: Served, text: str, key: str = "a1", **given: Any) -> httpx.Response:
    return ask(served, chat(text, **given), CHAT, authorization=f"Bearer {key}")


def test_watching_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(MockEngine(slots=2, max_len=256), ServeSettings(cache="memory"), RING) as plain:
        without = [same(question(plain, text)) for text in (PLAIN, RESPELT)]
    with watching(monkeypatch) as served:
        replies = []
        for place, text in enumerate((PLAIN, RESPELT), 1):
            replies.append(question(served, text))
            until(lambda place=place: told(served, "lookups_total") == place)  # type: ignore[misc]
        assert [reply.headers["x-cache"] for reply in replies] == ["miss", "miss"]
        assert [same(reply) for reply in replies] == without
        assert told(served, 'would_hit_total{guard="off",threshold="0.99"}') == 1
        question(served, PLAIN)  # which the response cache has: nothing is learnt from it
        question(served, PLAIN, "b1")  # another tenant's first question finds nothing
        until(lambda: told(served, "lookups_total") == 3)
        assert told(served, 'would_hit_total{guard="off",threshold="0.99"}') == 1


def test_streams_are_watched_too_and_no_store_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with watching(monkeypatch) as served:
        question(served, PLAIN, stream=True)
        until(lambda: told(served, "lookups_total") == 1)
        ask(served, chat(RESPELT), CHAT, authorization="Bearer a1", cache_control="no-store")
        for given in ({"n": 2}, {"logprobs": True}, {"temperature": 1}, {"cache_salt": "x"},
                      {"response_format": {"type": "json_object"}}):  # fmt: skip
            assert question(served, RESPELT, **given).status_code == 200
        question(served, "something else")
        until(lambda: told(served, "lookups_total") == 2)


def test_a_tenant_that_opted_in_is_given_the_neighbours_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with watching(monkeypatch, semantic_tenants=("a",)) as served:
        first = question(served, PLAIN)
        until(lambda: told(served, "lookups_total") == 1)
        near = question(served, RESPELT, "a2")
        assert near.headers["x-cache"] == "semantic"
        assert float(near.headers["x-cache-similarity"]) > 0.99
        assert near.json()["choices"] == first.json()["choices"]
        sampled = [reply.json()["usage"]["completion_tokens"] for reply in (first, near)]
        assert sampled[0] == sampled[1] > len(first.json()["choices"][0]["message"]["content"]), "the stop's token too"
        stream = question(served, RESPELT, "a2", stream=True)
        assert stream.headers["x-cache"] == "semantic"
        assert stream.text.endswith("data: [DONE]\n\n")
        fresh = ask(served, chat(RESPELT), CHAT, authorization="Bearer a2", cache_control="no-cache")
        assert fresh.headers["x-cache"] == "miss"
        exact = question(served, RESPELT, "a2")
        assert exact.headers["x-cache"] == "hit"  # its own answer, once there is one
        assert same(exact) == same(fresh)
        assert question(served, PLAIN, "b1").headers["x-cache"] == "miss"
        assert question(served, RESPELT, "b1").headers["x-cache"] == "miss"


def test_an_answer_cut_off_by_length_is_neither_watched_nor_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with watching(monkeypatch, semantic_tenants=("a",)) as served:
        cut = {"max_tokens": 3}
        assert question(served, PLAIN, **cut).json()["choices"][0]["finish_reason"] == "length"
        question(served, "something else")
        until(lambda: told(served, "lookups_total") == 1)
        assert question(served, RESPELT, **cut).headers["x-cache"] == "miss"


def test_max_age_refuses_an_older_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    with watching(monkeypatch, semantic_tenants=("a",)) as served:
        question(served, PLAIN)
        until(lambda: told(served, "lookups_total") == 1)
        for directive, outcome in (("max-age=1000", "semantic"), ("max-age=0", "miss")):
            reply = ask(served, chat(RESPELT), CHAT, authorization="Bearer a2", cache_control=directive)
            assert reply.headers["x-cache"] == outcome


@pytest.mark.parametrize(
    "given", [{"semantic": "on"}, {"semantic_tenants": ("a",)}, {"semantic": "shadow", "semantic_threshold": 1.5}]
)
def test_settings_that_make_no_sense(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="semantic"):
        ServeSettings(**given)


def test_without_an_encoder_it_is_refused() -> None:
    with pytest.raises(UserError, match="no encoder"):
        open_semantic(ServeSettings(semantic="shadow"), None, Metrics("mock", 64))

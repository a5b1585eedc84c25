"""Priorities, deadlines, salts: what a call says of them, or its key, reaches the engine's requests."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.serving.conftest import WAIT, Served, serving, until
from tests.serving.test_robustness import CHAT, GOOD, error_of
from tradewind.engine.mock import MockEngine
from tradewind.engine.requests import Request
from tradewind.engine.ticket import Ticket
from tradewind.errors import UserError
from tradewind.serving import keys
from tradewind.serving.keys import ApiKey, Keyring, hash_of, plain_keys, read_keys
from tradewind.serving.settings import ServeSettings

RING = Keyring(
    (
        ApiKey("plain", hash_of("plain"), "acme"),
        ApiKey("urgent", hash_of("urgent"), "acme", priority=-10),
        ApiKey("batch", hash_of("batch"), "acme", priority=20),
        *plain_keys(("operator",)),
    )
)
SECONDS = 45.0


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    settings = ServeSettings(request_timeout_s=SECONDS, prefix_cache_mib=8)
    with serving(MockEngine(slots=2, max_len=512), settings, RING) as made:
        yield made


@pytest.fixture
def seen(served: Served, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What the scheduler was given."""
    held: list[Request] = []
    submit_all = served.scheduler.submit_all

    def noting(calls: list) -> list[Ticket]:
        held.extend(request for request, _ in calls)
        return submit_all(calls)

    monkeypatch.setattr(served.scheduler, "submit_all", noting)
    return held


def ask(served: Served, key: str, **more: object) -> tuple[int, str | None, str | None]:
    with served.http() as http:
        reply = http.post(CHAT, json=GOOD | more, headers={"Authorization": f"Bearer {key}"})
    return (200, None, None) if reply.status_code == 200 else error_of(reply)


@pytest.mark.parametrize(
    ("key", "asked", "given"),
    [
        ("plain", None, 0),
        ("plain", 7, 7),
        ("urgent", None, 0),
        ("urgent", -10, -10),
        ("batch", None, 20),
        ("batch", 100, 100),
        ("operator", -100, -100),
    ],
)
def test_a_priority_within_the_keys_bound(
    served: Served, seen: list[Request], key: str, asked: int | None, given: int
) -> None:
    assert ask(served, key, priority=asked) == (200, None, None)
    assert [(one.priority, one.tenant) for one in seen] == [(given, "default" if key == "operator" else "acme")]


@pytest.mark.parametrize(
    ("key", "asked"),
    [("plain", -1), ("urgent", -11), ("batch", 19), ("operator", -101), ("plain", 101), ("plain", "a")],
)
def test_a_priority_beyond_it_is_refused(served: Served, seen: list[Request], key: str, asked: object) -> None:
    assert ask(served, key, priority=asked) == (400, "invalid_value", "priority")
    assert not seen


def test_a_server_without_keys_takes_any() -> None:
    with serving(MockEngine(), ServeSettings()) as open_server, open_server.http() as http:
        assert http.post(CHAT, json=GOOD | {"priority": -100}).status_code == 200


def waiting(served: Served, count: int) -> bool:
    return served.scheduler.snapshot().waiting == count


def test_the_smaller_goes_first() -> None:
    """One slot is taken; of those that wait, the last to come is served first."""
    order: list[int] = []
    engine = MockEngine(slots=1, max_len=4096, step_delay=0.002)
    with serving(engine, ServeSettings()) as served:
        served.scheduler.observer = lambda timings: order.append(timings.priority)
        body = GOOD | {"max_tokens": 3000, "ignore_eos": True, "stream": True, "priority": 1}
        with ThreadPoolExecutor(3) as pool, served.http() as http:
            with http.stream("POST", CHAT, json=body) as running:
                lines = running.iter_lines()  # kept, for without it the stream would be closed
                next(lines)
                asked = []
                for priority in (30, 20, 10):
                    asked.append(pool.submit(http.post, CHAT, json=GOOD | {"priority": priority}))
                    until(partial(waiting, served, len(asked)))
            assert [one.result(WAIT).status_code for one in asked] == [200] * 3
        until(lambda: len(order) == 4)
    assert order == [1, 10, 20, 30]


def test_the_engine_knows_the_deadline(served: Served, seen: list[Request]) -> None:
    before = time.monotonic()
    assert ask(served, "plain")[0] == 200
    (one,) = seen
    assert one.deadline is not None
    assert before + SECONDS <= one.deadline <= time.monotonic() + SECONDS


def cached(served: Served, key: str, salt: str | None) -> int:
    body = GOOD | {"messages": [{"role": "user", "content": "a prompt of some length " * 8}]}
    with served.http() as http:
        held = {} if salt is None else {"cache_salt": salt}
        reply = http.post(CHAT, json=body | held, headers={"Authorization": f"Bearer {key}"}).json()
    return int(reply["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_prompts_are_found_under_the_same_salt_and_tenant_only(served: Served) -> None:
    assert cached(served, "plain", "a") == 0
    assert cached(served, "plain", "a") > 0
    assert cached(served, "urgent", "a") > 0  # a key of the same tenant
    assert cached(served, "plain", "b") == 0
    assert cached(served, "plain", None) == 0
    assert cached(served, "operator", "a") == 0


@pytest.mark.parametrize("salt", ["", 5, "x" * 513])
def test_salts_are_texts(served: Served, salt: object) -> None:
    assert ask(served, "plain", cache_salt=salt) == (400, "invalid_value", "cache_salt")


def test_the_file_holds_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys.main(["new", "--file", str(path), "--priority", "-5"])
    assert read_keys(path)[0][0].priority == -5
    held = json.loads(path.read_text())
    held["keys"][0]["priority"] = -101
    path.write_text(json.dumps(held))
    with pytest.raises(UserError, match="priority -101"):
        read_keys(path)

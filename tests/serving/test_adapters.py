"""Adapters as models of their own: by name, beside each other, loaded and unloaded while others are answered."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.serving.conftest import WAIT, Served, until
from tradewind.engine.mock import MockEngine, best_next
from tradewind.engine.scheduler import Scheduler
from tradewind.engine.text import ByteTokenizer
from tradewind.errors import UserError
from tradewind.model.adapters import WEIGHTS_FILE
from tradewind.serving.adapters import LOAD, UNLOAD, load_adapters, named_folders
from tradewind.serving.app import create_app
from tradewind.serving.keys import SCOPES, ApiKey, Keyring, hash_of
from tradewind.serving.server import Server, bind, config_of
from tradewind.serving.settings import ServeSettings

PROMPT = "Which axis is summed over?"


def folder(under: Path, name: str, content: str | None = None) -> Path:
    """What the mock engine takes for an adapter."""
    (under / name).mkdir()
    (under / name / WEIGHTS_FILE).write_text(content or name)
    return under / name


@contextmanager
def serving(
    given: tuple[str, ...] = (), adapters_dir: str = "", keys: Keyring | None = None, delay: float = 0.0, **more: object
) -> Iterator[Served]:
    engine, tokenizer = MockEngine(slots=4, max_len=1024, step_delay=delay), ByteTokenizer()
    settings = ServeSettings(adapter=given, adapters_dir=adapters_dir, **more)  # type: ignore[arg-type]
    loaded = load_adapters(engine, given)
    scheduler = Scheduler(engine, tokenizer, settings.scheduler)
    listener = bind("127.0.0.1", 0)
    app = create_app(scheduler, tokenizer, "mock", settings, keys, adapters=loaded)
    server = Server(config_of(app, settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", scheduler, server)
    server.should_exit = True
    thread.join(WAIT)
    assert not thread.is_alive()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Two from the start, of which `other` may be had again under `adapters_dir`, and two more there."""
    for name in ("one", "two", "three"):
        folder(tmp_path, name)
    given = (f"terse={tmp_path / 'one'}", f"wordy={tmp_path / 'two'}")
    with serving(given, str(tmp_path), cache="memory", delay=0.001) as made:
        yield made


def text(served: Served, model: str, prompt: str = PROMPT, tokens: int = 24) -> str:
    made = served.client().completions.create(model=model, prompt=prompt, max_tokens=tokens, temperature=0)
    assert made.model == model
    return made.choices[0].text


def by_hand(served: Served, model: str | None, tokens: int = 24) -> str:
    """What the engine's arithmetic gives for the adapter of this folder's content."""
    from tradewind.engine.mock import MockAdapter

    offset = 0 if model is None else MockAdapter.of(model.encode()).offset
    held = list(PROMPT.encode())
    for _ in range(tokens):
        held.append(best_next(held, offset))
    out = held[len(PROMPT) :]
    return bytes(out[: out.index(257)] if 257 in out else out).decode()


def test_the_name_switches_the_adapter(served: Served) -> None:
    assert text(served, "mock") == by_hand(served, None)
    assert text(served, "terse") == by_hand(served, "one")
    assert text(served, "wordy") == by_hand(served, "two")
    assert len({text(served, name) for name in ("mock", "terse", "wordy")}) == 3


def test_models_are_listed_as_vllm_lists_them(served: Served, tmp_path: Path) -> None:
    held = {one.id: one.model_dump() for one in served.client().models.list()}
    assert list(held) == ["mock", "terse", "wordy"]
    assert (held["terse"]["parent"], held["terse"]["root"]) == ("mock", str(tmp_path / "one"))
    assert served.client().models.retrieve("wordy").model_dump() == held["wordy"]
    assert served.http().post("/v1/completions", json={"model": "gone", "prompt": "x"}).status_code == 404


def test_adapters_share_a_batch_and_no_cache(served: Served) -> None:
    """The same prompt at once for each, twice: answers stay apart, in flight and from the cache."""
    names = ["mock", "terse", "wordy"] * 3
    want = {name: text(served, name, "Another prompt") for name in set(names)}
    for _ in range(2):
        out: dict[int, str] = {}

        def ask(place: int, name: str, out: dict[int, str] = out) -> None:
            out[place] = text(served, name, "Another prompt")

        threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(names)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert [out[place] for place in range(len(names))] == [want[name] for name in names]


def test_fingerprints_and_cache_keys_differ_by_content(served: Served) -> None:
    def seen(model: str) -> tuple[str, str, str]:
        body = {"model": model, "prompt": "A third prompt", "max_tokens": 4, "temperature": 0}
        reply = served.http().post("/v1/completions", json=body)
        return reply.json()["system_fingerprint"], reply.headers["x-cache-key"], reply.headers["x-cache"]

    first = {name: seen(name) for name in ("mock", "terse", "wordy")}
    assert [one[2] for one in first.values()] == ["miss"] * 3
    assert len({one[0] for one in first.values()}) == len({one[1] for one in first.values()}) == 3
    assert change(served, LOAD, "again", "one").status_code == 200  # the content of `terse`
    assert seen("again")[:2] == first["terse"][:2]
    assert seen("again")[2] == "hit"


def change(served: Served, route: str, name: str, path: str | None = None, key: str = "") -> httpx.Response:
    body = {"lora_name": name} | ({} if path is None else {"lora_path": path})
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with served.http() as http:
        return http.post(route, json=body, headers=headers)


def test_loaded_and_unloaded_while_others_are_answered(served: Served, tmp_path: Path) -> None:
    want = text(served, "mock", "A long answer", 400)
    stream = served.client().completions.create(
        model="mock", prompt="A long answer", max_tokens=400, temperature=0, stream=True,
        extra_headers={"Cache-Control": "no-store"}, extra_body={"ignore_eos": False},
    )  # fmt: skip
    pieces = [next(iter(stream)).choices[0].text]
    assert change(served, LOAD, "new", "three").text == "Success: LoRA adapter 'new' added successfully."
    assert text(served, "new") == by_hand(served, "three")
    assert change(served, UNLOAD, "new").status_code == 200
    pieces += [chunk.choices[0].text for chunk in stream]
    assert "".join(pieces) == want
    assert served.http().get("/v1/models/new").status_code == 404
    assert not any(
        "three" in str(one["root"]) for one in served.http().get("/v1/models").json()["data"] if "root" in one
    )


def test_a_name_loaded_anew_is_its_new_content(served: Served, tmp_path: Path) -> None:
    """Nothing that was cached of the old one is given: neither answers nor keys and values."""
    assert change(served, LOAD, "new", "three").status_code == 200
    assert text(served, "new") == by_hand(served, "three")
    assert change(served, UNLOAD, "new").status_code == 200
    (tmp_path / "three" / WEIGHTS_FILE).write_text("trained further")
    assert change(served, LOAD, "new", "three").status_code == 200
    assert text(served, "new") == by_hand(served, "trained further") != by_hand(served, "three")


def test_one_in_use_is_not_unloaded(served: Served) -> None:
    body = {"model": "terse", "prompt": "x", "max_tokens": 900, "ignore_eos": True, "stream": True, "temperature": 0}
    with served.http() as http, http.stream("POST", "/v1/completions", json=body) as reply:
        lines = reply.iter_lines()
        assert "error" not in next(lines), reply.status_code
        refused = change(served, UNLOAD, "terse")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "adapter_in_use")
        assert served.http().get("/v1/models/terse").status_code == 200
    until(served.all_free)
    until(lambda: change(served, UNLOAD, "terse").status_code == 200)
    assert "terse" not in str(served.http().get("/v1/models").json())
    assert [one.digest for one in served.engine.adapters.values()] != []


@pytest.mark.parametrize(
    ("route", "name", "path", "status", "said"),
    [
        (LOAD, "terse", "three", 400, "'terse' is served already"),
        (LOAD, "mock", "three", 400, "'mock' is served already"),
        (LOAD, "new", "nosuch", 400, "no folder 'nosuch'"),
        (LOAD, "new", "..", 400, "no folder '..'"),
        (LOAD, "new", "/etc", 400, "no folder '/etc'"),
        (LOAD, "new", ".", 400, "no such file"),
        (LOAD, "new", None, 400, "lora_path"),
        (UNLOAD, "new", None, 404, "'new' is not loaded"),
        (UNLOAD, "mock", None, 404, "'mock' is not loaded"),
    ],
)
def test_what_cannot_be_done(served: Served, route: str, name: str, path: str | None, status: int, said: str) -> None:
    reply = change(served, route, name, path)
    assert reply.status_code == status
    assert said in reply.json()["error"]["message"]


def test_routes_are_for_administrators_and_by_choice(tmp_path: Path) -> None:
    folder(tmp_path, "one")
    ring = Keyring(tuple(ApiKey(scope, hash_of(scope), scopes=(scope,)) for scope in SCOPES))
    with serving(adapters_dir=str(tmp_path), keys=ring) as made:
        assert change(made, LOAD, "new", "one").status_code == 401
        assert [change(made, LOAD, "new", "one", key).status_code for key in ("generate", "models")] == [403, 403]
        assert change(made, LOAD, "new", "one", "admin").status_code == 200
        assert change(made, UNLOAD, "new", None, "generate").status_code == 403
    with serving() as made:
        assert change(made, LOAD, "new", "one").status_code == 404


@pytest.mark.parametrize("given", [("terse",), ("=folder",), ("terse=",), ("a=x", "a=y")])
def test_names_and_folders(given: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="adapter"):
        named_folders(given)


def test_folders_that_are_not_there_are_named(tmp_path: Path) -> None:
    none = tmp_path / "none"
    with pytest.raises(UserError, match=r"--adapters-dir .*none: no such folder"), serving(adapters_dir=str(none)):
        pass
    with pytest.raises(UserError, match=r"--adapter terse: .*none"), serving((f"terse={none}",)):
        pass


def test_a_model_and_an_adapter_of_one_name(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="two models are to be served as 'mock'"),
        serving((f"mock={folder(tmp_path, 'a')}",)),
    ):
        pass

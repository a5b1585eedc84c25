"""`/v1/embeddings`, as OpenAI's own client and plain HTTP see it, over a small encoder with random weights."""

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from openai.types import CreateEmbeddingResponse

from tests.serving.conftest import Served, serving, until
from tradewind.encoder import load_encoder
from tradewind.encoder.contract import Encoder
from tradewind.encoder.folder import RandomEncoder, random_encoder, write_folder
from tradewind.engine.mock import MockEngine
from tradewind.serving.embeddings import Embeddings
from tradewind.serving.keys import ApiKey, Keyring, Limits, hash_of
from tradewind.serving.settings import ServeSettings
from tradewind.serving.variants import load_embeddings

TEXTS = ["What does reshape return?", "a", "Enable it.", "a"]
SHAPE = RandomEncoder(hidden_size=64, num_layers=2, num_heads=4, mlp_size=128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("served") / "encoder"
    write_folder(made, "tiny", *random_encoder(SHAPE, seed=0), "int8")
    return made


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load_encoder(folder, 1)


def settings_of(folder: Path, **changes: object) -> ServeSettings:
    return ServeSettings(encoder=str(folder), threads=1, max_input_tokens=600, max_inputs=8, **changes)  # type: ignore[arg-type]


def embeddings_of(settings: ServeSettings) -> Embeddings:
    made = load_embeddings(settings)
    assert made is not None
    return made


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    settings = settings_of(folder)
    with serving(MockEngine(), settings, embeddings=embeddings_of(settings)) as made:
        yield made


def post(served: Served, body: object, **headers: str) -> httpx.Response:
    with served.http() as http:
        return http.post("/v1/embeddings", json=body, headers=headers)


def test_the_official_client_gets_the_encoders_vectors(served: Served, encoder: Encoder) -> None:
    """Its default asks for base64 and decodes it to float32."""
    for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}, {"dimensions": 64, "user": "me"}):
        reply = served.client().embeddings.create(model="tiny", input=TEXTS, **options)
        vectors = [one.embedding for one in reply.data]
        if options.get("encoding_format") == "base64":
            vectors = [np.frombuffer(base64.b64decode(one), "<f4") for one in vectors]  # type: ignore[arg-type]
        np.testing.assert_array_equal(np.asarray(vectors, np.float32), encoder.embed(TEXTS))
        tokens = sum(map(len, encoder.tokenizer.encode(TEXTS)))
        assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (tokens, tokens)
        assert (reply.model, reply.object) == ("tiny", "list")
        assert [(one.index, one.object) for one in reply.data] == [(place, "embedding") for place in range(4)]


@pytest.mark.parametrize("form", ["string", "strings", "ids", "arrays"])
def test_a_text_and_its_ids_have_one_vector(served: Served, encoder: Encoder, form: str) -> None:
    text = TEXTS[0]
    ids = encoder.tokenizer.encode([text])[0][1:-1]
    given = {"string": text, "strings": [text], "ids": ids, "arrays": [ids]}[form]
    reply = CreateEmbeddingResponse.model_validate(post(served, {"model": "tiny", "input": given}).json(), strict=True)
    np.testing.assert_array_equal(np.float32([one.embedding for one in reply.data]), encoder.embed([text]))
    assert reply.usage.prompt_tokens == len(ids) + 2


def test_what_was_found_is_told_and_the_body_is_the_same(served: Served) -> None:
    body = {"model": "tiny", "input": ["one", "two"]}
    first, second = post(served, body), post(served, body)
    assert (first.headers["x-cache"], first.headers["x-cache-hits"]) == ("miss", "0/2")
    assert (second.headers["x-cache"], second.headers["x-cache-hits"]) == ("hit", "2/2")
    assert first.content == second.content
    third = post(served, {"model": "tiny", "input": ["two", "three", "ONE"]})
    assert (third.headers["x-cache"], third.headers["x-cache-hits"]) == ("miss", "2/3")


def test_cache_control_is_kept_to(served: Served) -> None:
    body = {"model": "tiny", "input": ["a", "b"]}

    def told(**headers: str) -> tuple[str, str]:
        reply = post(served, body, **headers)
        assert reply.status_code == 200
        vectors.append(reply.json()["data"])
        return reply.headers["x-cache"], reply.headers["x-cache-hits"]

    vectors: list[object] = []
    no_store, no_cache = {"cache-control": "no-store"}, {"cache-control": "no-cache"}
    assert told(**no_store) == ("bypass", "0/2")
    assert told() == ("miss", "0/2")  # nothing was kept
    assert told(**no_cache) == ("miss", "0/2")
    assert told(**{"cache-control": "max-age=60"}) == ("hit", "2/2")
    assert told(**{"cache-control": "max-age=0"}) == ("miss", "0/2")
    assert all(one == vectors[0] for one in vectors)
    wrong = post(served, body, **{"cache-control": "max-age=soon"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "Cache-Control")
    text = httpx.get(f"{served.url}/metrics").text
    for line in (
        'texts_total{outcome="hit"} 2.0',
        'texts_total{outcome="miss"} 6.0',
        'texts_total{outcome="bypass"} 2.0',
    ):
        assert f"tradewind_embedding_cache_{line}" in text
    assert "tradewind_embedding_cache_entries 2.0" in text


def test_without_room_nothing_is_kept(folder: Path) -> None:
    settings = settings_of(folder, embedding_cache_mib=0)
    with serving(MockEngine(), settings, embeddings=embeddings_of(settings)) as made:
        assert [post(made, {"model": "tiny", "input": "a"}).headers["x-cache"] for _ in range(2)] == ["miss", "miss"]


BAD: list[tuple[dict[str, object], str, str, str]] = [
    ({"input": ""}, "invalid_value", "input", "none empty"),
    ({"input": []}, "invalid_value", "input", "none empty"),
    ({"input": ["a", ""]}, "invalid_value", "input", "none empty"),
    ({"input": ["a", 1]}, "invalid_value", "input", "none empty"),
    ({"input": [[1], []]}, "invalid_value", "input", "none empty"),
    ({"input": [True]}, "invalid_value", "input", "none empty"),
    ({"input": [-1]}, "invalid_value", "input", "none empty"),
    ({"input": 1.5}, "invalid_value", "input", "none empty"),
    ({"input": [193]}, "invalid_value", "input", "ids are from 0 to 192"),
    ({"input": [[7], [2]]}, "invalid_value", "input", "without those that frame or pad a text: 2, 3, 0"),
    ({"input": "x " * 300}, "context_length_exceeded", "input", "input 0 has 302 tokens; tiny reads at most 256"),
    ({"input": ["a"] * 9}, "invalid_value", "input", "At most 8 texts"),
    ({"input": ["x " * 250] * 3}, "invalid_value", "input", "At most 600 tokens go into one request, these are 756"),
    ({"dimensions": 32}, "invalid_value", "dimensions", "64 dimensions"),
    ({"dimensions": 0}, "invalid_value", "dimensions", "greater than or equal to 1"),
    ({"encoding_format": "int8"}, "invalid_value", "encoding_format", "'float' or 'base64'"),
    ({"truncate": True}, "unsupported_parameter", "truncate", "truncate"),
    ({"user": 1}, "invalid_value", "user", "string"),
]


@pytest.mark.parametrize(("change", "code", "param", "said"), BAD)
def test_what_is_wrong_is_named(served: Served, change: dict[str, object], code: str, param: str, said: str) -> None:
    reply = post(served, {"model": "tiny", "input": "a", **change})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, code, param)
    assert said in error["message"]


def test_at_the_limits_it_is_answered(served: Served) -> None:
    reply = post(served, {"model": "tiny", "input": ["x " * 254, "y " * 254, *["z"] * 6]})
    assert reply.status_code == 200 and reply.json()["usage"]["prompt_tokens"] == 256 * 2 + 6 * 3


def test_models(served: Served) -> None:
    client = served.client()
    assert [one.id for one in client.models.list()] == ["mock", "tiny"]
    assert client.models.retrieve("tiny").model_dump()["max_model_len"] == 256
    with pytest.raises(openai.NotFoundError, match="'mock' makes no embeddings; 'tiny' does"):
        client.embeddings.create(model="mock", input="a")
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.completions.create(model="tiny", prompt="a")


def test_without_an_encoder_it_is_a_404_that_says_so(quick: Served, tmp_path: Path) -> None:
    with pytest.raises(openai.NotFoundError, match="This server has no encoder"):
        quick.client().embeddings.create(model="tiny", input="a")
    assert load_embeddings(ServeSettings(encoder=str(tmp_path / "none"))) is None


class Held(Embeddings):
    """The encoder's work waits until it is let go."""

    @classmethod
    def of(cls, settings: ServeSettings) -> "Held":
        made = cls(embeddings_of(settings).cache, settings)
        made.begun, made.go, made.ran = threading.Event(), threading.Event(), 0
        run = made.encoder.run

        def held(texts):
            made.begun.set()
            assert made.go.wait(20)
            made.ran += len(texts)
            return run(texts)

        made.encoder.run = held  # type: ignore[method-assign]
        return made

    begun: threading.Event
    go: threading.Event
    ran: int


def test_the_event_loop_answers_others_and_too_many_calls_are_told_to_wait(folder: Path) -> None:
    settings = settings_of(folder)
    held = Held.of(replace(settings, max_waiting=0))
    with serving(MockEngine(), settings, embeddings=held) as made, made.http() as http:
        held.go.set()
        assert post(made, {"model": "tiny", "input": "known"}).status_code == 200
        held.go.clear()
        held.begun.clear()
        replies: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: replies.append(post(made, {"model": "tiny", "input": "a"})))
        thread.start()
        assert held.begun.wait(20)
        assert http.get("/health").status_code == 200
        assert made.client().completions.create(model="mock", prompt="a", max_tokens=2).usage is not None
        assert post(made, {"model": "tiny", "input": "known"}).headers["x-cache"] == "hit"
        refused = post(made, {"model": "tiny", "input": "b"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "slow_down")
        assert refused.headers["retry-after"]
        held.go.set()
        thread.join(20)
        assert replies[0].status_code == 200
        assert post(made, {"model": "tiny", "input": "b"}).status_code == 200


def test_a_client_that_leaves_ends_its_call(folder: Path) -> None:
    """Between two groups, of one text each: they hold 256 tokens."""
    settings = settings_of(folder)
    held = Held.of(settings)
    body = json.dumps({"model": "tiny", "input": ["x " * 198, "y " * 198, "z " * 198]})
    with serving(MockEngine(), settings, embeddings=held) as made:
        client = HTTPConnection(made.url.removeprefix("http://"))
        client.request("POST", "/v1/embeddings", body)
        assert held.begun.wait(20)
        client.close()
        until(lambda: not made.server.server_state.connections)
        held.go.set()
        until(lambda: held.computing == 0)
        assert held.ran == 1


def test_keys_scopes_tenants_and_limits(folder: Path) -> None:
    settings = settings_of(folder)
    keys = Keyring(
        (
            ApiKey("a", hash_of("key-a"), "one", limits=Limits(tokens_per_minute=50)),
            ApiKey("b", hash_of("key-b"), "two"),
            ApiKey("c", hash_of("key-c"), "two", scopes=("models",)),
        )
    )
    body = {"model": "tiny", "input": "a text"}
    with serving(MockEngine(), settings, keys, embeddings=embeddings_of(settings)) as made:
        assert post(made, body).status_code == 401
        assert post(made, body, authorization="Bearer key-c").status_code == 403
        first = post(made, body, authorization="Bearer key-a")
        used = first.json()["usage"]["prompt_tokens"]
        assert int(first.headers["x-ratelimit-remaining-tokens"]) == 50 - used
        assert post(made, body, authorization="Bearer key-b").headers["x-cache"] == "miss"
        assert post(made, body, authorization="Bearer key-b").headers["x-cache"] == "hit"
        refused = post(made, {**body, "input": "x " * 60}, authorization="Bearer key-a")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")


def test_metrics_count_the_tokens(served: Served) -> None:
    used = post(served, {"model": "tiny", "input": "a text"}).json()["usage"]["prompt_tokens"]
    with served.http() as http:
        text = http.get("/metrics").text
    series = (
        'gen_ai_client_token_usage_sum{error_type="",gen_ai_operation_name="embeddings",gen_ai_request_model="tiny"'
    )
    (line,) = [line for line in text.splitlines() if line.startswith(series)]
    assert 'gen_ai_token_type="input"' in line and float(line.split()[-1]) == used


def test_floats_are_those_of_the_base64(served: Served) -> None:
    body = {"model": "tiny", "input": "a"}
    (plain,), (packed,) = (
        json.loads(post(served, {**body, "encoding_format": form}).content)["data"] for form in ("float", "base64")
    )
    assert np.float32(plain["embedding"]).tobytes() == base64.b64decode(packed["embedding"])

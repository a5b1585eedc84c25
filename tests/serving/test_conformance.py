"""Every reply, field by field, against the types of OpenAI's own client; and what the newer fields of a body do."""

import json
import math
from collections.abc import Iterator

import jsonschema
import pytest
from openai.types import Completion, CompletionUsage, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from tests.serving.conftest import Served
from tests.serving.test_robustness import CHAT, GOOD, error_of
from tradewind.engine.mock import MockEngine
from tradewind.engine.text import ByteTokenizer

TEXT = "/v1/completions"
PROMPT = {"model": "mock", "prompt": "hello", "temperature": 0, "ignore_eos": True, "max_tokens": 6}
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["fröhlich", "悲しい"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["mood", "age"],
    "additionalProperties": False,
}


def strictly(kind: type[BaseModel], value: dict[str, object]) -> None:
    """Valid as the client's type without conversions, and without a field that the type does not name."""
    made = kind.model_validate(value, strict=True)
    for held, given in pairs(made, value):
        extra = set(given) - {field.alias or name for name, field in type(held).model_fields.items()}
        assert not extra, f"{type(held).__name__} names no {extra}"


def pairs(held: object, given: object) -> Iterator[tuple[BaseModel, dict[str, object]]]:
    """Every object of a reply beside the body that it came from."""
    if isinstance(held, BaseModel):
        assert isinstance(given, dict)
        yield held, given
        for name in set(type(held).model_fields) & set(given):
            yield from pairs(getattr(held, name), given[name])
    elif isinstance(held, list):
        for one, other in zip(held, given, strict=True):  # type: ignore[call-overload]
            yield from pairs(one, other)


def post(served: Served, path: str, body: dict[str, object]) -> dict[str, object]:
    with served.http() as http:
        reply = http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def streamed(served: Served, path: str, body: dict[str, object]) -> list[dict[str, object]]:
    with served.http() as http:
        lines = [line for line in http.post(path, json=body | {"stream": True}).text.split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


CHATS = [{}, {"logprobs": True, "top_logprobs": 2}, {"n": 3}, {"response_format": {"type": "json_object"}}]
TEXTS = [{}, {"logprobs": 2}, {"n": 2, "prompt": ["a", "b"]}, {"echo": True}, {"best_of": 3, "n": 2}]


@pytest.mark.parametrize("more", CHATS)
def test_chats_are_of_the_clients_types(quick: Served, more: dict[str, object]) -> None:
    strictly(ChatCompletion, post(quick, CHAT, GOOD | more))
    for chunk in streamed(quick, CHAT, GOOD | more | {"stream_options": {"include_usage": True}}):
        strictly(ChatCompletionChunk, chunk)


@pytest.mark.parametrize("more", TEXTS)
def test_texts_are_of_the_clients_types(quick: Served, more: dict[str, object]) -> None:
    reply = post(quick, TEXT, PROMPT | more)
    strictly(Completion, reply)
    strictly(CompletionUsage, reply["usage"])  # type: ignore[arg-type]
    if "best_of" not in more:
        for chunk in streamed(quick, TEXT, PROMPT | more | {"stream_options": {"include_usage": True}}):
            # The client names two finish reasons here and no null, which the specification has until the last chunk.
            for choice in chunk["choices"]:  # type: ignore[attr-defined]
                choice["finish_reason"] = choice["finish_reason"] or "stop"
            strictly(Completion, chunk)


def test_models_are_of_the_clients_types(quick: Served) -> None:
    with quick.http() as http:
        model = http.get("/v1/models/mock").json()
    assert model.pop("max_model_len") == 512  # the one field of our own, as vLLM has it
    strictly(Model, model)


def test_the_check_is_strict() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    strictly(CompletionUsage, usage)
    with pytest.raises(AssertionError, match="names no"):
        strictly(CompletionUsage, usage | {"cost": 1})
    with pytest.raises(ValueError):
        strictly(CompletionUsage, usage | {"total_tokens": "2"})


STRUCTURES = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "mood", "schema": SCHEMA, "strict": True}},
    "structured_outputs": {"json": SCHEMA},
}


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("field", STRUCTURES)
def test_answers_keep_to_a_schema(quick: Served, path: str, field: str) -> None:
    ask = GOOD if path == CHAT else PROMPT
    ask = ask | {"max_tokens": 200, "n": 4, "temperature": 2, "seed": 5, field: STRUCTURES[field]}
    texts = [one["message"]["content"] if path == CHAT else one["text"] for one in post(quick, path, ask)["choices"]]  # type: ignore[attr-defined]
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)
    pieces = [""] * 4
    for chunk in streamed(quick, path, ask):
        for one in chunk["choices"]:  # type: ignore[attr-defined]
            pieces[one["index"]] += one["delta"].get("content", "") if path == CHAT else one["text"]
    assert pieces == texts


@pytest.mark.parametrize(
    ("structure", "fits"),
    [
        ({"regex": "[0-9]{4}"}, str.isdigit),
        ({"choice": ["ja", "nein"]}, ["ja", "nein"].__contains__),
        ({"grammar": 'start: "x" start | "y"'}, lambda text: text.strip("x") == "y"),
        ({"json": json.dumps({"const": [1]})}, lambda text: json.loads(text) == [1]),
        ({"json_object": True}, lambda text: text.startswith("{")),
    ],
)
def test_other_structures(quick: Served, structure: dict[str, object], fits: object) -> None:
    reply = post(quick, TEXT, PROMPT | {"max_tokens": 40, "structured_outputs": structure})
    assert fits(reply["choices"][0]["text"])  # type: ignore[index, operator]


def schema(value: object) -> dict[str, object]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": value}}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_object", "json_schema": {"name": "a"}}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
            "response_format.json_schema.name",
        ),
        (schema({"type": "strin"}), "response_format"),
        (schema({"uniqueItems": True}), "response_format"),
        (schema({"$ref": "http://127.0.0.1:9/x"}), "response_format"),
        (schema({"multipleOf": 10**9}), "response_format"),
        (schema({"properties": {f"p{place}": {} for place in range(900)}, "type": "object"}), "response_format"),
        (schema({"type": "string", "pattern": "("}), "response_format"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "x" * 70_000}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": "start: x"}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": [""]}}, "structured_outputs.choice[0]"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "text"}}, "structured_outputs"),
        ({"logit_bias": {"258": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"²": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"5": True}}, "logit_bias"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),
        ({"logit_bias": [5]}, "logit_bias"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty"),
        ({"min_p": 1.1}, "min_p"),
        ({"user": 5}, "user"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(place): "" for place in range(17)}}, "metadata"),
    ],
)
def test_values_that_do_not_fit(quick: Served, body: dict[str, object], param: str) -> None:
    with quick.http() as http:
        assert error_of(http.post(CHAT, json=GOOD | {"max_tokens": 9} | body)) == (400, "invalid_value", param)


def test_infinity_as_a_number_is_no_value(quick: Served) -> None:
    for field in ("presence_penalty", "min_p", "temperature", "logit_bias"):
        value = b'{"5": 1e400}' if field == "logit_bias" else b"1e400"
        body = json.dumps(GOOD).encode()[:-1] + b', "' + field.encode() + b'": ' + value + b"}"
        with quick.http() as http:
            assert error_of(http.post(CHAT, content=body))[0] == 400


def test_bias_and_penalties_reach_the_sampler(quick: Served) -> None:
    def text(**more: object) -> str:
        return post(quick, TEXT, PROMPT | more)["choices"][0]["text"]  # type: ignore[index]

    assert text(logit_bias={"122": 100}) == "zzzzzz"
    assert text(logit_bias={"122": 100}, frequency_penalty=2.0, max_tokens=200).count("z") < 200
    assert len(set(text(logit_bias={"122": 100}, repetition_penalty=10.0, max_tokens=12))) > 1
    assert text(temperature=2, min_p=1.0, seed=1) == text()


def test_echo_is_the_prompt_and_scores_it(quick: Served) -> None:
    ask = PROMPT | {"prompt": ["hé", "hi"], "echo": True, "logprobs": 1, "n": 2}
    plain = post(quick, TEXT, PROMPT | {"prompt": ["hé", "hi"], "n": 2})["choices"]
    choices = post(quick, TEXT, ask)["choices"]
    assert [one["text"] for one in choices] == [  # type: ignore[attr-defined]
        prompt + one["text"]
        for prompt, one in zip(("hé", "hé", "hi", "hi"), plain, strict=True)  # type: ignore[call-overload]
    ]
    scores = choices[0]["logprobs"]  # type: ignore[index]
    assert len(scores["tokens"]) == len(scores["token_logprobs"]) == len(scores["top_logprobs"]) == 3 + 6
    assert (scores["token_logprobs"][0], scores["top_logprobs"][0]) == (None, None)
    assert scores["text_offset"] == [0, 1, 1, *range(2, 8)]
    lines = MockEngine().prefill(ByteTokenizer().encode("hé"), keep_logits=True).all_logits
    assert lines is not None
    total = math.log(sum(math.exp(value) for value in lines[0].tolist()))
    assert scores["token_logprobs"][1] == pytest.approx(lines[0]["é".encode()[0]] - total, abs=1e-4)
    texts, entries = [""] * 4, 0
    for chunk in streamed(quick, TEXT, ask):
        for one in chunk["choices"]:  # type: ignore[attr-defined]
            texts[one["index"]] += one["text"]
            entries += len(one["logprobs"]["tokens"]) if one["index"] == 0 else 0
    assert texts == [one["text"] for one in choices]  # type: ignore[attr-defined]
    assert entries == 9


def test_a_prompt_is_scored_without_an_answer(quick: Served) -> None:
    reply = post(quick, TEXT, PROMPT | {"max_tokens": 0, "echo": True, "logprobs": 0})
    (choice,) = reply["choices"]  # type: ignore[misc]
    assert (choice["text"], choice["finish_reason"], len(choice["logprobs"]["tokens"])) == ("hello", "length", 5)
    assert reply["usage"]["completion_tokens"] == 0  # type: ignore[index]


def test_best_of_gives_the_likeliest(quick: Served) -> None:
    ask = PROMPT | {"temperature": 1.5, "seed": 7, "prompt": ["a", "b"], "logprobs": 0}
    made = post(quick, TEXT, ask | {"n": 5})["choices"]
    best = post(quick, TEXT, ask | {"best_of": 5, "n": 2})
    for place in (0, 1):
        ranked = sorted(made[5 * place : 5 * place + 5], key=lambda one: -sum(one["logprobs"]["token_logprobs"]))  # type: ignore[index]
        kept = best["choices"][2 * place : 2 * place + 2]  # type: ignore[index]
        assert [one["text"] for one in kept] == [one["text"] for one in ranked[:2]]
    assert [one["index"] for one in best["choices"]] == [0, 1, 2, 3]  # type: ignore[attr-defined]
    assert best["usage"]["completion_tokens"] == 60  # type: ignore[index]
    plain = post(quick, TEXT, ask | {"best_of": 5, "n": 2, "logprobs": None})["choices"]
    assert [one["logprobs"] for one in plain] == [None] * 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "body", [{"best_of": 1, "n": 2}, {"best_of": 21}, {"best_of": 2, "stream": True}, {"best_of": 0}]
)
def test_best_of_out_of_range(quick: Served, body: dict[str, object]) -> None:
    with quick.http() as http:
        assert error_of(http.post(TEXT, json=PROMPT | body)) == (400, "invalid_value", "best_of")

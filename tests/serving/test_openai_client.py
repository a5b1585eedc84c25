"""The API judged by OpenAI's own client: its types parse every reply, its exceptions name every error."""

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.serving.conftest import WAIT, Served, until
from tradewind.engine.mock import IM_END, best_next
from tradewind.engine.text import ByteTokenizer

ASK = [{"role": "user", "content": "What is a SVD?"}]
GREEDY = {"model": "mock", "messages": ASK, "temperature": 0, "extra_body": {"ignore_eos": True}}


def by_hand(count: int, messages: list[dict[str, str]] = ASK) -> str:
    tokens, made = ByteTokenizer().chat(messages), b""
    while len(made) < count:
        best = best_next(tokens)
        tokens.append(0 if best == IM_END else best)  # a banned end leaves the runner-up, one id on
        made += bytes(tokens[-1:])
    return made.decode()


def test_models(quick: Served) -> None:
    client = quick.client()
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("mock", "model", "tradewind")
    assert client.models.retrieve("mock") == model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other/model")
    assert caught.value.code == "model_not_found"


def test_chat(quick: Served) -> None:
    reply = quick.client().chat.completions.create(**GREEDY, max_completion_tokens=12)
    (choice,) = reply.choices
    assert (choice.message.role, choice.message.content) == ("assistant", by_hand(12))
    assert (choice.finish_reason, choice.index, choice.logprobs, reply.object) == ("length", 0, None, "chat.completion")
    prompt = len(ByteTokenizer().chat(ASK))
    assert reply.usage is not None
    assert reply.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": prompt,
        "completion_tokens": 12,
        "total_tokens": prompt + 12,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
    }
    assert reply.service_tier == "default"
    assert reply.id.startswith("chatcmpl-")
    assert reply.system_fingerprint == f"mock-{quick.engine.weights_digest[:12]}"


def test_developer_is_system_and_parts_are_joined(quick: Served) -> None:
    said = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "ab"}]
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    reply = quick.client().chat.completions.create(
        **GREEDY | {"messages": [said[0], {"role": "user", "content": parts}]}, max_tokens=9
    )
    assert reply.choices[0].message.content == by_hand(9, [{**said[0], "role": "system"}, said[1]])


def test_chat_stream(quick: Served) -> None:
    stream = quick.client().chat.completions.create(
        **GREEDY, max_tokens=12, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == by_hand(12)
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


def test_stream_without_usage_has_none(quick: Served) -> None:
    chunks = list(quick.client().chat.completions.create(**GREEDY, max_tokens=3, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_natural_end_says_stop(quick: Served) -> None:
    tokens = list(b"hi")
    while tokens[-1] != IM_END:
        tokens.append(best_next(tokens))
    reply = quick.client().completions.create(model="mock", prompt="hi", temperature=0, max_tokens=200)
    assert reply.choices[0].text == bytes(tokens[2:-1]).decode()
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == len(tokens) - 2


def test_stop_strings(quick: Served) -> None:
    whole = by_hand(40)
    stop = whole[15:18]
    for stream in (False, True):
        reply = quick.client().chat.completions.create(**GREEDY, max_tokens=40, stop=["zzzzzz", stop], stream=stream)
        if stream:
            chunks = list(reply)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            reason = chunks[-1].choices[0].finish_reason
        else:
            text, reason = reply.choices[0].message.content, reply.choices[0].finish_reason
        assert (text, reason) == (whole[: whole.index(stop)], "stop")


def test_n_and_seed(quick: Served) -> None:
    ask = {"model": "mock", "messages": ASK, "max_tokens": 8, "n": 6, "seed": -3, "temperature": 1.8, "top_p": 0.95}
    one, two = (quick.client().chat.completions.create(**ask) for _ in range(2))
    texts = [choice.message.content for choice in one.choices]
    assert texts == [choice.message.content for choice in two.choices]
    assert [choice.index for choice in one.choices] == list(range(6))
    assert len(set(texts)) > 1
    streamed = [""] * 6
    for chunk in quick.client().chat.completions.create(**ask, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_chat_logprobs(quick: Served) -> None:
    ask = {**GREEDY, "max_tokens": 5, "logprobs": True, "top_logprobs": 3}
    (choice,) = quick.client().chat.completions.create(**ask).choices
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content is not None
    assert "".join(entry.token for entry in content) == choice.message.content
    assert all(entry.bytes == list(entry.token.encode()) and len(entry.top_logprobs) == 3 for entry in content)
    assert all(
        entry.logprob == max(top.logprob for top in entry.top_logprobs) for entry in content if entry.token > "\0"
    )
    chunks = list(quick.client().chat.completions.create(**ask, stream=True))
    streamed = [entry for chunk in chunks if (held := chunk.choices[0].logprobs) for entry in held.content or ()]
    assert streamed == content


def test_completions_with_several_prompts(quick: Served) -> None:
    ask = {"model": "mock", "max_tokens": 5, "temperature": 0, "logprobs": 2, "n": 2}
    reply = quick.client().completions.create(**ask, prompt=["hi", "there"])
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert reply.choices[0].text == reply.choices[1].text != reply.choices[2].text
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or ()) == reply.choices[0].text
    assert logprobs.text_offset == list(range(len(reply.choices[0].text)))
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 20)
    ids = quick.client().completions.create(**ask, prompt=[list(b"hi"), list(b"there")])
    assert [choice.text for choice in ids.choices] == [choice.text for choice in reply.choices]
    assert quick.client().completions.create(**ask, prompt=list(b"hi")).choices[0].text == reply.choices[0].text
    streamed = [""] * 4
    for chunk in quick.client().completions.create(**ask, prompt=["hi", "there"], stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [choice.text for choice in reply.choices]


@pytest.mark.parametrize("prompt", ["x" * 600, [7] * 512])
def test_context_too_long(quick: Served, prompt: str | list[int]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        quick.client().completions.create(model="mock", prompt=prompt)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")
    assert "512 tokens" in caught.value.message


def test_an_answer_without_max_tokens_ends_with_the_context(quick: Served) -> None:
    reply = quick.client().chat.completions.create(**GREEDY)
    assert reply.usage is not None
    assert (reply.usage.total_tokens, reply.choices[0].finish_reason) == (512, "length")


REFUSED = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "functions": [{"name": "f"}],
    "audio": {"voice": "alloy", "format": "wav"},
    "modalities": ["text", "audio"],
    "prediction": {"type": "content", "content": "a"},
    "reasoning_effort": "high",
    "verbosity": "low",
    "service_tier": "flex",
    "store": True,
    "web_search_options": {},
    "suffix": "a",
    "echo": True,
    "best_of": 2,
    "guided_json": {},
    "min_tokens": 5,
    "chat_template_kwargs": {},
}
"""What others serve and this server does not, in a chat."""


@pytest.mark.parametrize("field", REFUSED)
def test_fields_without_effect_are_refused_by_name(quick: Served, field: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        quick.client().chat.completions.create(**GREEDY | {"extra_body": {"ignore_eos": True, field: REFUSED[field]}})
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", field)


def test_suffix_is_refused(quick: Served) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        quick.client().completions.create(model="mock", prompt="a", suffix="b")
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "suffix")


def test_labels_change_nothing(quick: Served) -> None:
    labels = {"user": "me", "safety_identifier": "x" * 64, "metadata": {"run": "1"}, "store": False}
    reply = quick.client().chat.completions.create(**GREEDY, max_tokens=9, prompt_cache_key="k", **labels)
    assert reply.choices[0].message.content == by_hand(9)


def test_fields_that_ask_for_nothing_are_taken(quick: Served) -> None:
    nothing = {"frequency_penalty": 0, "logit_bias": {}, "response_format": {"type": "text"}, "tools": [], "stop": None}
    assert quick.client().chat.completions.create(**GREEDY, max_tokens=2, **nothing).choices


def test_unknown_model(quick: Served) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        quick.client().chat.completions.create(**GREEDY | {"model": "gpt-9"})
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_leaving_a_stream_frees_the_slot_within_200_ms(slow: Served) -> None:
    stream = slow.client().chat.completions.create(**GREEDY, max_tokens=3000, stream=True)
    assert next(iter(stream)).choices
    assert slow.scheduler.snapshot().free_slots == 1
    stream.close()
    assert until(slow.all_free, 2) < 0.2


def test_overload_is_429_with_retry_after(slow: Served) -> None:
    streams = [slow.client().chat.completions.create(**GREEDY, max_tokens=3000, stream=True) for _ in range(2)]
    for stream in streams:
        assert next(iter(stream)).choices
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(slow.client().chat.completions.create, **GREEDY, max_tokens=3)
        until(lambda: slow.scheduler.snapshot().waiting == 1)
        with pytest.raises(openai.RateLimitError) as caught:
            slow.client().chat.completions.create(**GREEDY, max_tokens=3)
        assert (caught.value.code, caught.value.response.headers["Retry-After"]) == ("slow_down", "1")
        for stream in streams:
            stream.close()
        assert waiting.result(WAIT).choices[0].message.content == by_hand(3)

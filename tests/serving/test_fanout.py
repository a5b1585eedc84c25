"""Fan-out: one answer out of several variants', chosen as asked, counted for all, cancelled together."""

from collections.abc import Iterator, Sequence

import httpx
import numpy as np
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.conftest import Served, serving, until
from tests.serving.test_robustness import CHAT, Broken, error_of
from tradewind.engine.contract import Logits
from tradewind.engine.mock import MockEngine, Tokens
from tradewind.engine.requests import Delta, TokenLogprob
from tradewind.serving.fanout import chosen, normal, votes_of
from tradewind.serving.replies import Choice
from tradewind.serving.settings import ServeSettings

ASK = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0}
TEXT = "/v1/completions"


class Writer(MockEngine):
    """Writes one letter again and again; the larger `sharp`, the surer it is."""

    def __init__(self, letter: str, sharp: float, **options: float) -> None:
        super().__init__(slots=2, max_len=256, **options)  # type: ignore[arg-type]
        self.letter, self.sharp = ord(letter), sharp

    def _logits(self, kv: Tokens, adapter: str | None) -> Logits:
        line = np.zeros(self.vocab_size, np.float32)
        line[self.letter] = self.sharp
        return line


@pytest.fixture(scope="module")
def three() -> Iterator[Served]:
    """One writes `a` and is surest; two write `b`."""
    beside = {"unsure": Writer("b", 6), "surer": Writer("b", 8)}
    with serving(Writer("a", 9), ServeSettings(), model="sure", beside=beside) as served:
        yield served
        until(served.all_free)


def aggregate(method: str | None, models: Sequence[str] = ("sure", "unsure", "surer")) -> dict[str, object]:
    return {"aggregate": {"models": list(models), **({} if method is None else {"method": method})}}


@pytest.mark.parametrize(("method", "model", "text"), [(None, "sure", "aaaa"), ("majority", "surer", "bbbb")])
def test_one_answer_is_chosen_and_all_are_counted(three: Served, method: str | None, model: str, text: str) -> None:
    """The official client's types hold the reply; what is beyond them says how it was chosen."""
    reply = three.client().chat.completions.create(model="sure", **ASK, extra_body=aggregate(method))
    assert (reply.model, len(reply.choices)) == (model, 1)
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (text, "length")
    assert reply.choices[0].logprobs is None
    assert reply.usage is not None
    prompt = reply.usage.prompt_tokens
    assert (prompt % 3, reply.usage.completion_tokens, reply.usage.total_tokens) == (0, 12, prompt + 12)
    told = reply.model_extra["aggregate"]  # type: ignore[index]
    assert told["method"] == (method or "logprob")
    held = [(one["model"], one["text"], one["votes"], one["chosen"]) for one in told["candidates"]]
    names = {"sure": ("aaaa", 1), "unsure": ("bbbb", 2), "surer": ("bbbb", 2)}
    assert held == [(name, *names[name], name == model) for name in names]
    scores = [one["mean_logprob"] for one in told["candidates"]]
    assert scores[0] > scores[2] > scores[1]
    assert [one["completion_tokens"] for one in told["candidates"]] == [4, 4, 4]
    # by hand: the letter's logit is 9, the other 257 are 0
    assert scores[0] == pytest.approx(9 - np.log(np.exp(9) + 257), abs=1e-4)


def test_completions_too_with_the_winners_log_probabilities(three: Served) -> None:
    reply = three.client().completions.create(
        model="unsure", prompt="hi", max_tokens=3, temperature=0, logprobs=1, extra_body=aggregate("majority")
    )
    assert (reply.model, reply.choices[0].text) == ("surer", "bbb")
    assert reply.choices[0].logprobs is not None
    assert reply.choices[0].logprobs.tokens == ["b", "b", "b"]


def test_each_can_be_asked_alone_and_is_listed(three: Served) -> None:
    client = three.client()
    assert [one.id for one in client.models.list().data] == ["sure", "unsure", "surer"]
    assert client.models.retrieve("surer").id == "surer"
    for model, text in (("sure", "aaaa"), ("unsure", "bbbb")):
        reply = client.chat.completions.create(model=model, **ASK)
        assert (reply.model, reply.choices[0].message.content) == (model, text)
        assert reply.model_extra is not None
        assert "aggregate" not in reply.model_extra
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", **ASK)


def test_metrics_are_told_apart_by_model(three: Served) -> None:
    three.client().chat.completions.create(model="sure", **ASK, extra_body=aggregate(None))
    until(three.all_free)
    with three.http() as http:
        families = list(text_string_to_metric_families(http.get("/metrics").text))
    assert len({family.name for family in families}) == len(families)
    models = {"sure", "unsure", "surer"}
    for name in ("vllm:num_requests_running", "vllm:generation_tokens", "vllm:request_success"):
        (family,) = [one for one in families if one.name == name]
        assert {sample.labels["model_name"] for sample in family.samples} == models


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"stream": True}, "invalid_value", "stream"),
        ({"n": 2}, "invalid_value", "n"),
        ({"logit_bias": {"5": 1}}, "invalid_value", "logit_bias"),
        (aggregate(None, ("sure", "sure")), "invalid_value", "aggregate.models"),
        (aggregate(None, ("sure", "other")), "invalid_value", "aggregate.models"),
        (aggregate(None, ("sure",)), "invalid_value", "aggregate.models"),
        (aggregate("mean"), "invalid_value", "aggregate.method"),
        ({"aggregate": {"models": ["sure", "surer"], "weights": [1, 2]}}, "unsupported_parameter", "aggregate.weights"),
        ({"aggregate": {}}, "invalid_value", "aggregate.models"),
        ({"aggregate": "sure"}, "invalid_value", "aggregate"),
    ],
)
def test_what_does_not_go_together(three: Served, more: dict[str, object], code: str, param: str) -> None:
    body = ASK | {"model": "sure"} | aggregate("logprob") | more
    with three.http() as http:
        assert error_of(http.post(CHAT, json=body)) == (400, code, param)


@pytest.mark.parametrize(
    ("more", "param"), [({"echo": True}, "echo"), ({"best_of": 2}, "best_of"), ({"prompt": [1, 2]}, "prompt")]
)
def test_what_does_not_go_together_in_completions(three: Served, more: dict[str, object], param: str) -> None:
    body = {"model": "sure", "prompt": "hi", "max_tokens": 2} | aggregate("logprob") | more
    with three.http() as http:
        assert error_of(http.post(TEXT, json=body)) == (400, "invalid_value", param)


@pytest.mark.timing
def test_a_failure_cancels_the_others() -> None:
    broken = Broken()
    broken.fail_prefill = True
    with serving(Writer("a", 9, step_delay=0.005), ServeSettings(), model="sure", beside={"broken": broken}) as served:
        body = ASK | {"model": "sure", "max_tokens": 200, "ignore_eos": True} | aggregate(None, ("sure", "broken"))
        with served.http() as http:
            assert error_of(http.post(CHAT, json=body)) == (500, None, None)
        assert until(served.all_free, 5) < 0.5  # 200 steps would take a second


def test_one_that_refuses_cancels_the_others() -> None:
    small = MockEngine(slots=1, max_len=16)
    with serving(Writer("a", 9, step_delay=0.005), ServeSettings(), model="sure", beside={"small": small}) as served:
        body = ASK | {"model": "sure", "max_tokens": 200, "ignore_eos": True} | aggregate(None, ("sure", "small"))
        with served.http() as http:
            assert error_of(http.post(CHAT, json=body)) == (400, "context_length_exceeded", "messages")
        assert until(served.all_free, 5) < 0.5


def test_leaving_cancels_all() -> None:
    with serving(
        Writer("a", 9, step_delay=0.005), ServeSettings(), model="sure", beside={"b": Writer("b", 6, step_delay=0.005)}
    ) as served:
        body = ASK | {"model": "sure", "max_tokens": 200, "ignore_eos": True} | aggregate(None, ("sure", "b"))
        loops = [served.scheduler, served.beside["b"]]
        with pytest.raises(httpx.ReadTimeout), served.http() as http:
            http.post(CHAT, json=body, timeout=0.3)
        assert until(served.all_free, 5) < 0.4
        assert all(loop.snapshot().completion_tokens < 200 for loop in loops)


def choice(text: str, *logprobs: float) -> Choice:
    made = Choice()
    entries = tuple(TokenLogprob(0, b"", one, (), 0) for one in logprobs)
    made.add(Delta(0, text, len(logprobs), entries, "stop"))
    return made


def test_votes_and_ties() -> None:
    texts = ["Paris.", "  paris ", "London", "\uff30ARIS!"]
    assert [normal(text) for text in texts] == ["paris", "paris", "london", "paris"]
    choices = [choice("Yes", -2.0), choice("no", -1.0), choice("yes!", -1.5), choice("No.", -3.0)]
    assert votes_of(choices) == [2, 2, 2, 2]
    assert chosen(choices, votes_of(choices)) == 1  # a tie: the likeliest
    assert chosen([*choices, choice("YES", -9.0)], [3, 2, 3, 2, 3]) == 2  # the likeliest of the most
    assert chosen([choice("a", -1.0), choice("b", -1.0)], [1, 1]) == 0  # the first asked for
    assert chosen([choice(""), choice("b", -9.0)], [1, 1]) == 1  # an answer without a token is the least likely

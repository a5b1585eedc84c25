"""Sampling against a naive reference: plain Python over the whole vocabulary."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.engine.sampling import Sampler, SamplingParams, candidates, drawn

logit_lists = st.lists(st.floats(-20, 20, width=16), min_size=1, max_size=300)


def naive(logits: list[float], params: SamplingParams) -> dict[int, float]:
    """Token -> probability, written from the definitions: temperature, then top-k, then top-p, then min-p."""
    best = max(logits)
    weights = [math.exp((value - best) / params.temperature) for value in logits]
    ranked = sorted(range(len(logits)), key=lambda token: (-weights[token], token))
    if params.top_k:
        ranked = ranked[: params.top_k]
    total = math.fsum(weights[token] for token in ranked)
    kept, mass = [], 0.0
    for token in ranked:
        kept.append(token)
        mass += weights[token] / total
        if params.top_p < 1 and mass >= params.top_p:
            break
    kept = [token for token in kept if weights[token] >= params.min_p * max(weights)]
    total = math.fsum(weights[token] for token in kept)
    return {token: weights[token] / total for token in kept}


@settings(max_examples=150, deadline=None)
@given(
    logits=logit_lists,
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.0, 0.13, 0.5, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 50, 1000]),
    min_p=st.sampled_from([0.0, 0.03, 0.4, 1.0]),
)
def test_candidates_are_those_of_the_definition(
    logits: list[float], temperature: float, top_p: float, top_k: int, min_p: float
) -> None:
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    tokens, weights = candidates(np.array(logits, np.float32), params)
    want = naive(logits, params)
    got = dict(zip(tokens.tolist(), (weights / weights.sum()).tolist(), strict=True))
    # The two sums round differently: a token exactly at the edge of top_p may fall on either side.
    assert abs(len(got) - len(want)) <= 1
    assert set(got) <= set(want) or set(want) <= set(got)
    if set(got) == set(want):
        # float32: (logit - max) / temperature is up to 133 here, so its rounding moves the weight by 1e-5 of itself.
        assert got == pytest.approx(want, rel=1e-4)


def test_a_large_flat_vocabulary_needs_more_than_the_first_look() -> None:
    logits = np.zeros(5000, np.float32)
    tokens, _ = candidates(logits, SamplingParams(top_p=0.5))
    assert tokens.tolist() == list(range(2500))


@given(logits=logit_lists)
def test_greedy_is_the_first_largest(logits: list[float]) -> None:
    assert Sampler(SamplingParams(temperature=0))(np.array(logits, np.float32)).token == logits.index(max(logits))


def test_frequencies_are_the_probabilities() -> None:
    logits = np.array([0.0, 1.0, 2.0, -1.0], np.float32)
    params = SamplingParams(temperature=0.7, top_k=3, seed=5)
    sampler, count = Sampler(params), 20_000
    drawn = np.bincount([sampler(logits).token for _ in range(count)], minlength=4)
    for token, wanted in ({3: 0.0} | naive(logits.tolist(), params)).items():
        # Five standard deviations of a binomial share.
        assert drawn[token] / count == pytest.approx(wanted, abs=5 * math.sqrt(0.25 / count))


def test_seed_decides_and_index_tells_answers_apart() -> None:
    logits = np.zeros(1000, np.float32)

    def draw(seed: int | None, index: int = 0) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed), index)
        return [sampler(logits).token for _ in range(8)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    assert draw(7) != draw(7, 1)
    assert draw(None) != draw(None)
    assert draw(2**63 - 1) == draw(2**63 - 1)


@pytest.mark.parametrize("temperature", [0, 1e-300, 1.0])
def test_banned_tokens_are_never_chosen(temperature: float) -> None:
    sampler = Sampler(SamplingParams(temperature=temperature, seed=1), banned=(2,))
    logits = np.array([0, 1, 50, 1], np.float32)
    assert 2 not in {sampler(logits).token for _ in range(50)}
    assert logits[2] == 50


def test_logprobs_are_the_models_own() -> None:
    logits = np.array([1.0, 3.0, 2.0, 3.0], np.float32)
    sampled = Sampler(SamplingParams(temperature=0, logprobs=3), banned=(1,))(logits)
    total = math.log(sum(math.exp(value) for value in logits))
    assert sampled.token == 3
    assert sampled.logprob == pytest.approx(3 - total)
    assert [token for token, _ in sampled.top] == [1, 3, 2]
    assert [value for _, value in sampled.top] == pytest.approx([3 - total, 3 - total, 2 - total])
    assert Sampler(SamplingParams(logprobs=0))(logits).top == ()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_a_fault(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Sampler(SamplingParams(temperature=0))(np.full(4, value, np.float32))


@settings(max_examples=200, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 0.0, 0.25, 1.0, 1e-8]), min_size=1, max_size=700).filter(any),
    share=st.floats(0, 1, exclude_max=True),
)
def test_a_share_falls_where_running_sums_say(weights: list[float], share: float) -> None:
    place = drawn(np.array(weights, np.float32), share)
    assert weights[place] > 0
    total = math.fsum(weights)
    assert math.fsum(weights[:place]) <= share * total * (1 + 1e-6) + 1e-12
    assert math.fsum(weights[: place + 1]) >= share * total * (1 - 1e-6)


def penalised(logits: list[float], params: SamplingParams, prompt: list[int], made: list[int]) -> list[float]:
    """What is chosen from, written from the definitions."""
    changed = []
    for token, value in enumerate(logits):
        if token in prompt or token in made:
            value = value / params.repetition_penalty if value > 0 else value * params.repetition_penalty
        value -= params.presence_penalty * (token in made) + params.frequency_penalty * made.count(token)
        changed.append(value + dict(params.logit_bias).get(token, 0))
    return changed


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(st.lists(st.floats(-8, 8, width=16), min_size=6, max_size=6), min_size=1, max_size=12),
    presence=st.sampled_from([0.0, -2.0, 1.3]),
    frequency=st.sampled_from([0.0, -0.5, 2.0]),
    repetition=st.sampled_from([1.0, 0.5, 1.9]),
    bias=st.sampled_from([(), ((0, 100.0),), ((2, -100.0), (5, 1.5))]),
)
def test_penalties_and_bias_are_those_of_the_definition(
    lines: list[list[float]],
    presence: float,
    frequency: float,
    repetition: float,
    bias: tuple[tuple[int, float], ...],
) -> None:
    params = SamplingParams(
        temperature=0,
        presence_penalty=presence,
        frequency_penalty=frequency,
        repetition_penalty=repetition,
        logit_bias=bias,
    )
    prompt, made = [1, 3], []
    sampler = Sampler(params, prompt=prompt)
    for line in lines:
        logits = np.array(line, np.float32)
        token = sampler(logits).token
        want = penalised(line, params, prompt, made)
        assert want[token] == pytest.approx(max(want), abs=1e-3)  # float32 of values up to 100
        assert logits.tolist() == line  # the engine's own buffer is left alone
        made.append(token)


def test_where_nothing_is_asked_for_the_logits_are_not_copied() -> None:
    logits = np.zeros(8, np.float32)
    assert Sampler(SamplingParams(temperature=0))._changed(logits, None) is logits
    asked = SamplingParams(presence_penalty=0.1), SamplingParams(logit_bias=((1, 1.0),))
    assert all(Sampler(params)._changed(logits, None) is not logits for params in asked)


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_only_what_is_allowed_is_chosen(temperature: float) -> None:
    sampler = Sampler(SamplingParams(temperature=temperature, seed=1, logprobs=1, logit_bias=((0, 50.0),)))
    allowed = np.array([False, True, True])
    drawn = [sampler(np.array([9, 1, 2, 50], np.float32), allowed) for _ in range(20)]
    assert {one.token for one in drawn} <= {1, 2}
    assert {one.top[0][0] for one in drawn} == {3}  # log-probabilities stay the model's own

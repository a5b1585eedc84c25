"""Sampling against a naive reference: plain Python over the whole vocabulary."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.engine.sampling import Sampler, SamplingParams, candidates, drawn

logit_lists = st.lists(st.floats(-20, 20, width=16), min_size=1, max_size=300)


def naive(logits: list[float], params: SamplingParams) -> dict[int, float]:
    """Token -> probability, written from the definitions: temperature, then top-k, then top-p."""
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
    total = math.fsum(weights[token] for token in kept)
    return {token: weights[token] / total for token in kept}


@settings(max_examples=150, deadline=None)
@given(
    logits=logit_lists,
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.0, 0.13, 0.5, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 50, 1000]),
)
def test_candidates_are_those_of_the_definition(
    logits: list[float], temperature: float, top_p: float, top_k: int
) -> None:
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k)
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

import jax.numpy as jnp
import numpy as np
import pytest

from tests.compression.distilling import CONFIG, tiny_rows, tiny_teacher
from tradewind.compression.on_policy import OnPolicyConfig, prompts, sample_answers
from tradewind.model.weights import to_model
from tradewind.training.data import pack

POLICY = OnPolicyConfig(share=1.0, answer_tokens=6, batch=3)


@pytest.fixture(scope="module")
def model():
    return to_model(CONFIG, tiny_teacher())


def likeliest(model, texts):
    """[N, T] the token that the whole model finds likeliest after each place of the texts."""
    length = max(map(len, texts))
    tokens = jnp.asarray([[*ids, *[0] * (length - len(ids))] for ids in texts])  # causal: what follows is not seen
    hidden = model.hidden(tokens, jnp.broadcast_to(jnp.arange(length), tokens.shape))
    return np.asarray(model.logits(hidden).argmax(-1))


def test_prompts_are_what_stands_before_the_first_target_of_each_sample():
    samples = [([5, 6, 7, 8, 9], [0, 0, 0, 1, 1]), ([1, 2, 3, 4], [0, 0, 1, 1]), ([11, 12], [0, 1])]
    assert sorted(prompts(pack(samples, 8))) == [[1, 2], [5, 6, 7], [11]]


def test_cold_samples_are_what_the_whole_model_finds_likeliest(model):
    """Prompts of unlike lengths in one batch, each against the model run on the whole text without a cache."""
    asked = list(prompts(tiny_rows()))[:4]
    cold = OnPolicyConfig(share=1.0, answer_tokens=5, batch=3, temperature=1e-6)
    samples = sample_answers(model, asked, cold, [0, 0])
    expected = likeliest(model, [ids for ids, _ in samples])
    for prompt, (ids, mask), after in zip(asked, samples, expected, strict=True):
        assert ids[: len(prompt)] == prompt and mask == [0] * len(prompt) + [1] * (len(ids) - len(prompt))
        assert ids[len(prompt) :] == after[len(prompt) - 1 : len(ids) - 1].tolist()
        assert len(ids) == len(prompt) + 5 or ids[-1] == CONFIG.eos_token_id


def test_samples_follow_the_models_distribution_and_the_seed(model):
    prompt = next(prompts(tiny_rows()))
    policy = OnPolicyConfig(share=1.0, answer_tokens=1, batch=50)
    first = [ids[-1] for ids, _ in sample_answers(model, [prompt] * 400, policy, [7, 0])]
    hidden = model.hidden(jnp.asarray([prompt]), jnp.arange(len(prompt))[None])
    logits = np.asarray(model.logits(hidden))[0, -1].astype(np.float64)
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    found = np.bincount(first, minlength=CONFIG.vocab_size) / 400
    assert np.abs(found - expected).max() < 0.1  # four standard deviations of a share of 400
    assert first == [ids[-1] for ids, _ in sample_answers(model, [prompt] * 400, policy, [7, 0])]
    assert first != [ids[-1] for ids, _ in sample_answers(model, [prompt] * 400, policy, [7, 1])]

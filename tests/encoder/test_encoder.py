"""What every encoder promises, on random weights; the published ones are held against in tests/parity."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.encoder.conftest import SHAPE
from tradewind.encoder.contract import TextTooLong
from tradewind.encoder.folder import random_encoder
from tradewind.encoder.jax import JaxEncoder
from tradewind.encoder.model import EncoderConfig, SentenceEncoder, checked, to_flat, to_model
from tradewind.errors import UserError

TEXTS = ["a", "one two", "x" * 40, "b", "Two, three; 'four'?", "one two", "", "y" * 150]
SAME = 1e-6
"""float32 sums of at most 128 products in another order."""


@pytest.fixture(scope="module")
def in_jax() -> JaxEncoder:
    config, flat, tokenizer = random_encoder(SHAPE, seed=0)
    return JaxEncoder(to_model(config, flat), tokenizer, "tiny")


def test_both_runtimes_make_the_same_vectors(in_jax: JaxEncoder, folders) -> None:
    from tradewind.encoder import load_encoder

    fp32, int8 = (load_encoder(folders[precision], 1).embed(TEXTS) for precision in ("fp32", "int8"))
    np.testing.assert_allclose(in_jax.embed(TEXTS), fp32, atol=SAME)
    assert (fp32 * int8).sum(1).min() > 0.999
    assert not np.array_equal(fp32, int8)


def test_vectors_are_of_unit_length_and_differ(ort) -> None:
    vectors = ort.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), SHAPE.hidden_size) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=SAME)
    np.testing.assert_array_equal(vectors[1], vectors[5])
    assert np.abs(vectors[0] - vectors[3]).max() > 1e-3


@settings(max_examples=20, deadline=None, derandomize=True)
@given(texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=12))
def test_alone_is_as_among_others(ort, texts: list[str]) -> None:
    """To the last bit: a cache may then hold what either gave."""
    np.testing.assert_array_equal(ort.embed(texts), np.concatenate([ort.embed([text]) for text in texts]))


def test_padding_counts_for_nothing() -> None:
    model = SentenceEncoder(EncoderConfig(50, 32, 2, 4, 64), rngs=nnx.Rngs(1))
    tokens = jnp.asarray([[3, 4, 5, 0, 0, 0], [3, 4, 5, 9, 9, 9]])
    padded = np.asarray(model(tokens, jnp.asarray([3, 3])))
    np.testing.assert_array_equal(padded[0], padded[1])
    np.testing.assert_allclose(padded[0], np.asarray(model(tokens[:1, :3], jnp.asarray([3])))[0], atol=SAME)


def test_no_texts_are_no_vectors(ort) -> None:
    assert ort.embed([]).shape == (0, SHAPE.hidden_size)


def test_a_text_that_is_too_long_is_named_and_one_at_the_limit_is_read(ort) -> None:
    fits = "x" * 50 + " " + "y" * 80 + " " + "z" * 50 + " " + "u" * 74
    assert len(ort.tokenizer.encode([fits])[0]) == ort.max_tokens
    assert ort.embed([fits]).shape == (1, SHAPE.hidden_size)
    with pytest.raises(TextTooLong, match="text 1 has 257 tokens, the encoder reads at most 256") as caught:
        ort.embed(["short", fits + " v"])
    assert (caught.value.place, caught.value.tokens, caught.value.limit) == (1, 257, 256)


def test_digests_name_weights_precision_and_runtime(in_jax: JaxEncoder, folders) -> None:
    from tradewind.encoder import load_encoder

    fp32, int8 = (load_encoder(folders[precision], 1) for precision in ("fp32", "int8"))
    assert len({in_jax.digest, fp32.digest, int8.digest}) == 3
    assert in_jax.weights_digest == fp32.weights_digest
    assert fp32.digest == load_encoder(folders["fp32"], 2).digest


def test_every_tensor_is_accounted_for() -> None:
    config, flat, _ = random_encoder(SHAPE, seed=0)
    again = to_flat(to_model(config, flat))
    assert again.keys() == flat.keys() and all(np.array_equal(again[name], flat[name]) for name in flat)
    name = "encoder.layer.1.output.dense.bias"
    for wrong, said in (
        ({k: v for k, v in flat.items() if k != name}, f"'{name}' is missing"),
        ({**flat, "encoder.layer.2.output.dense.bias": flat[name]}, "has no place in the encoder"),
        ({**flat, name: flat[name][:5]}, r"has shape \(5,\), the encoder needs \(64,\)"),
    ):
        with pytest.raises(UserError, match=said):
            checked(config, wrong)


def test_what_it_does_not_compute_is_refused() -> None:
    good = {
        "model_type": "bert", "hidden_act": "gelu", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 16, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    }  # fmt: skip
    assert EncoderConfig.from_hf(good, 16).num_heads == 2
    for change, said in (
        ({"hidden_act": "relu"}, "hidden_act is 'relu', only 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"num_attention_heads": 3}, "no multiple of heads 3"),
        ({"max_position_embeddings": 8}, r"max_tokens must be in 3\.\.8"),
    ):
        with pytest.raises(UserError, match=said):
            EncoderConfig.from_hf({**good, **change}, 16)
    with pytest.raises(UserError, match="lacks hidden_size"):
        EncoderConfig.from_hf({k: v for k, v in good.items() if k != "hidden_size"}, 16)

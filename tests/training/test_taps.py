import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.conftest import TINY, tiny_samples
from tradewind.errors import UserError
from tradewind.training.data import pack
from tradewind.training.taps import Taps, relations, run_model


@pytest.fixture
def batch():
    packed = pack(tiny_samples(24), 24)
    return packed.take(range(4))


def test_relations_are_softmax_of_scaled_products_within_a_sample(model, batch):
    layer, heads = model.layers[-1], 2
    x = np.random.default_rng(0).normal(size=(*batch.where.shape, TINY.hidden_size)).astype(np.float32)
    ours = np.exp(np.asarray(relations(layer, jnp.asarray(x), batch, heads)))
    normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + TINY.norm_eps) * np.asarray(layer.attention_norm.scale[...])
    segments = np.take_along_axis(batch.segments, batch.where, axis=1)
    for part, name in enumerate("qkv"):
        y = normed @ np.asarray(getattr(layer.attention, name).kernel[...])
        for head, piece in enumerate(np.split(y, heads, axis=-1)):
            for row in range(len(x)):
                for place in np.flatnonzero(batch.weights[row] > 0):
                    seen = (segments[row] == segments[row, place]) & (batch.weights[row] > 0)
                    score = np.exp(piece[row] @ piece[row, place] / np.sqrt(piece.shape[-1])) * seen
                    np.testing.assert_allclose(ours[row, place, part * heads + head], score / score.sum(), atol=1e-5)


def test_streams_are_what_enters_the_layers(model, batch):
    _, states = model.hidden(batch.tokens, batch.positions, batch.segments, return_layers=True)
    out = run_model(model, batch, taps=Taps((0, 2, 3)))
    for place, layer in enumerate((0, 2, 3)):
        expected = np.take_along_axis(np.asarray(states[layer]), batch.where[..., None], axis=1)
        np.testing.assert_allclose(out.streams[:, :, place], expected, atol=1e-6)
    plain = run_model(model, batch)
    assert plain.streams is None and plain.relations is None
    np.testing.assert_array_equal(plain.logits, out.logits)


def test_a_width_that_does_not_split_into_the_heads_is_a_user_error(model, batch):
    with pytest.raises(UserError, match="width 16 is no multiple of 3 heads"):
        run_model(model, batch, taps=Taps((), 3))

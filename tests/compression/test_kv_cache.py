"""Scales of the int8 cache, against the keys and values that the decoder's own cache holds."""

import jax.numpy as jnp
import numpy as np

from tests.compression.tiny import CONFIG, tiny_batch, tiny_flat
from tradewind.compression.kv_cache import kv_scales, load_scales, save_scales
from tradewind.model.decoder import init_cache
from tradewind.model.weights import to_model


def cached(tokens: np.ndarray) -> np.ndarray:
    """[2 x layers, KV heads, T, head dim]: what `advance` writes for the tokens."""
    model, count = to_model(CONFIG, tiny_flat()), len(tokens)
    places = jnp.arange(count)[None]
    _, cache = model.advance(jnp.asarray(tokens)[None], places, init_cache(CONFIG, 1, count), count)
    return np.stack([np.asarray(part[0]).transpose(1, 0, 2) for layer in cache for part in layer])


def test_scales_are_the_largest_of_each_channel_without_padding():
    batches = [tiny_batch(seed=1), tiny_batch(seed=2)]
    found = kv_scales(to_model(CONFIG, tiny_flat()), batches)
    assert (batches[0].segments == 0).any()
    texts = [batch.tokens[0][batch.segments[0] > 0] for batch in batches]
    highest = np.max([np.abs(cached(text)).max(axis=2) for text in texts], axis=0)
    np.testing.assert_allclose(found, highest / 127, rtol=1e-4)
    assert found.dtype == np.float32


def test_they_are_kept(tmp_path):
    scales = kv_scales(to_model(CONFIG, tiny_flat()), [tiny_batch()])
    save_scales(tmp_path / "scales", scales)
    assert np.array_equal(load_scales(tmp_path / "scales"), scales)


def test_a_channel_that_is_always_zero_has_a_scale():
    flat = tiny_flat()
    flat["model.layers.0.self_attn.v_proj.weight"][3] = 0
    scales = kv_scales(to_model(CONFIG, flat), [tiny_batch()])
    assert 0 < scales[1, 0, 3] < 1e-7

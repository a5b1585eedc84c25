"""A packed decoder against the decoder that it was made of."""

import jax.numpy as jnp
import numpy as np

from tradewind.model.decoder import Decoder, init_cache
from tradewind.model.packed import PackedDecoder


def test_a_packed_decoder_gives_the_same_logits_and_cache(model: Decoder) -> None:
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 7)))
    positions = jnp.tile(jnp.arange(7), (2, 1))
    want, want_cache = model.decode(tokens, positions, init_cache(model.config, 2, 16))
    made, cache = PackedDecoder(model).decode(tokens, positions, init_cache(model.config, 2, 16))
    np.testing.assert_allclose(made, want, atol=1e-5)
    for pair, want_pair in zip(cache, want_cache, strict=True):
        for part, want_part in zip(pair, want_pair, strict=True):
            np.testing.assert_allclose(part, want_part, atol=1e-5)

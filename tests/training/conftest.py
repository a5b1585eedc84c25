"""A decoder and conversations small enough that a step takes milliseconds."""

import numpy as np
import pytest
from flax import nnx

from tradewind.model.decoder import Decoder, DecoderConfig
from tradewind.training.data import Packed, Sample, pack

TINY = DecoderConfig(vocab_size=61, hidden_size=16, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=4, mlp_size=24)


def tiny_samples(count: int, seed: int = 0, shortest: int = 4, longest: int = 20) -> list[Sample]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, count)
    return [(rng.integers(0, TINY.vocab_size, n).tolist(), [int(i > n // 2) for i in range(n)]) for n in lengths]


@pytest.fixture
def model() -> Decoder:
    return Decoder(TINY, rngs=nnx.Rngs(0))


@pytest.fixture
def packed() -> Packed:
    return pack(tiny_samples(24), 24)

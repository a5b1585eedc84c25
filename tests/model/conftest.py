"""A decoder whose odd sizes tell every axis from every other, its weights, and a tokenizer of two paragraphs."""

import numpy as np
import pytest

from tradewind.model.decoder import Decoder, DecoderConfig
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import Flat, to_model, weight_table

CONFIG = DecoderConfig(
    vocab_size=304,
    hidden_size=64,
    num_layers=3,
    num_heads=6,
    num_kv_heads=2,
    head_dim=16,
    mlp_size=160,
    rope_base=10_000.0,
    max_position=512,
)
TEXTS = [
    "the array is returned as a copy of the array, the values of the axis",
    "if the axis is None, 12 values are read",
]


@pytest.fixture(scope="session")
def config() -> DecoderConfig:
    return CONFIG


@pytest.fixture(scope="session")
def flat() -> Flat:
    random = np.random.default_rng(0)
    shapes = {weight.hf: weight.shape(CONFIG) for weight in weight_table(CONFIG)}
    return {
        name: (1.0 if len(shape) == 1 else 0.0) + 0.2 * random.standard_normal(shape, dtype=np.float32)
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="session")
def model(flat: Flat) -> Decoder:
    return to_model(CONFIG, flat)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 20, CONFIG.vocab_size)

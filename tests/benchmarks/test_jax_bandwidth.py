"""The measurement itself, on the mock and the tiny model: what it counts, and that shares are of one repeat."""

import numpy as np
import pytest

from benchmarks.jax_bandwidth import UNITS, Work, compare, step_bytes, stream, summarize, table
from tests.compression.tiny import CONFIG, tiny_flat
from tradewind.engine.mock import MockEngine

WORK = Work(repeats=3, turns=2, steps=2, prompt_tokens=8, slots=2, max_len=64)


def test_bytes_of_a_step_are_those_of_the_weights_and_of_the_past():
    weights = sum(np.asarray(part).size * 4 for part in tiny_flat().values())
    assert step_bytes(CONFIG, 0) == weights
    per_token = 2 * CONFIG.num_layers * CONFIG.num_kv_heads * CONFIG.head_dim * 4
    assert step_bytes(CONFIG, 10) == weights + 10 * per_token


def test_a_share_is_decode_over_stream():
    engine = MockEngine(slots=2, max_len=64)
    values = compare(engine, CONFIG, lambda: 5e9, WORK)
    assert all(len(row) == WORK.repeats for row in values.values())
    assert values["stream_gb_per_s"] == [5.0] * 3
    np.testing.assert_allclose(values["share_of_bandwidth"], np.array(values["decode_gb_per_s"]) / 5)
    assert [engine.length(slot) for slot in range(2)] == [0, 0]
    result = summarize(values)
    assert result["stream_gb_per_s"]["interval"] == [5, 5]
    assert all(f"{name} ({unit})" in table(result) for name, unit in UNITS.items())


def test_the_stream_reads_all_it_says():
    assert stream(size=8 * 2**20, threads=2)() > 0
    with pytest.raises(ValueError, match="equal division"):
        stream(size=8 * 3, threads=2)

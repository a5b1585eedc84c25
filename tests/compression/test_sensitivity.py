"""Divergence of rounded models against definitions and bounds, and one kind of matrix at a time."""

import json

import numpy as np
import pytest

from tests.compression.tiny import CONFIG, reference_logits, rules, tiny_batch, tiny_flat
from tradewind.compression.quantize import quantize
from tradewind.compression.sensitivity import KINDS, divergence, sensitivity
from tradewind.errors import UserError
from tradewind.training.data import pack


def test_a_model_does_not_diverge_from_itself():
    found = divergence(CONFIG, tiny_flat(), tiny_flat(), [tiny_batch()])
    assert found.kl_all == pytest.approx(0, abs=1e-6)
    assert found.top1_all == found.top1_answers == 1


def test_divergence_is_the_mean_of_its_definition():
    """One sample alone in its row, and one target: the KL of the places by hand."""
    tokens = np.random.default_rng(5).integers(0, CONFIG.vocab_size, 20).tolist()
    packed = pack([(tokens, [0] * 19 + [1])], 32)
    flat = tiny_flat()
    other = {name: array * np.float32(1.02) for name, array in flat.items()}
    lines = [reference_logits(CONFIG, one, tokens).astype(np.float64) for one in (flat, other)]
    p, q = (line - np.log(np.exp(line).sum(-1, keepdims=True)) for line in lines)
    kl = (np.exp(p) * (p - q)).sum(-1)
    found = divergence(CONFIG, flat, other, [packed.take([0])])
    assert found.kl_all == pytest.approx(kl.mean(), rel=1e-3)
    assert found.kl_answers == pytest.approx(kl[18], rel=1e-3)
    assert found.top1_all == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean())


def test_every_matrix_is_of_one_kind_and_each_alone_harms_less_than_all():
    flat, batches = tiny_flat(), [tiny_batch(rows=4)]
    table = sensitivity(CONFIG, flat, batches)
    assert set(table) == set(KINDS)
    assert sum(row["parameters"] for row in table.values()) == sum(a.size for a in flat.values() if a.ndim == 2)
    everything = divergence(CONFIG, flat, quantize(flat, rules("int4")), batches)
    assert all(0 < row["kl_all"] < everything.kl_all for row in table.values())
    eight = sensitivity(CONFIG, flat, batches, "int8")
    assert all(eight[kind]["kl_all"] < 0.1 * table[kind]["kl_all"] for kind in KINDS)
    assert json.loads(json.dumps(table)) == table


def test_rows_without_a_target_are_refused():
    packed = pack([([1] * 20, [0] * 20)], 32)
    with pytest.raises(UserError, match="no target"):
        divergence(CONFIG, tiny_flat(), tiny_flat(), [packed.take([0])])

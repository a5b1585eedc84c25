"""A training step held against the peak of its products."""

import jax
import pytest

from tests.compression.tiny import CONFIG, tiny_variant
from tradewind.compression.variant import load_variant
from tradewind.hardware import bench
from tradewind.hardware.training import TrainingPlan, measure, model_flops
from tradewind.model.config import DecoderConfig

PLAN = TrainingPlan(rows=2, length=16, steps=2)


def test_model_flops_are_those_that_a_compiler_counts():
    """Forward and backward are three times the forward pass, which XLA counts: products, and what is small beside them."""
    from flax import nnx

    from tradewind.model.decoder import Decoder

    shape = DecoderConfig(2048, 256, 2, 4, 2, 64, 768)
    length = 128
    model = Decoder(shape, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)

    def forward(state, tokens):
        made = nnx.merge(graph, state)
        return made.logits(made.hidden(tokens, jax.numpy.arange(length)[None]))

    tokens = jax.numpy.zeros((1, length), int)
    counted = jax.jit(forward).lower(state, tokens).cost_analysis()["flops"]
    # the compiler counts whole attention, of which causal attention needs half
    half = 2 * shape.num_layers * shape.num_heads * shape.head_dim * length * length
    assert model_flops(shape, length) * length / 3 == pytest.approx(counted - half, rel=0.05)


def test_a_step_is_measured_beside_its_peak():
    shape = {**vars(CONFIG)}
    made = measure(shape, PLAN, 0)
    assert made["n"] == 2 and made["interval"][0] <= made["tokens_per_s"] <= made["interval"][1]
    assert made["model_flops_per_s"] == pytest.approx(made["tokens_per_s"] * model_flops(CONFIG, 16))
    assert 0 < made["utilization"] < 1  # so small a step is far below what large products reach
    assert made["claimed_utilization"] is None


def test_each_shape_is_trained_once(tmp_path, monkeypatch):
    for name in ("base-fp32", "teacher-fp32", "base-int8"):
        tiny_variant(tmp_path / name, name.split("-")[1])
    manifests = {path.name: load_variant(path) for path in sorted(tmp_path.iterdir())}
    asked = []
    monkeypatch.setattr(bench, "in_process", lambda function, *given: asked.append(given) or {})
    assert list(bench.trained(manifests, PLAN, 0)) == ["base-fp32"]
    assert DecoderConfig(**asked[0][0]) == CONFIG

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.training.conftest import TINY, tiny_samples
from tradewind.errors import UserError
from tradewind.model.decoder import Decoder
from tradewind.model.linear import precision
from tradewind.training.data import Schedule, pack
from tradewind.training.loop import (
    OptimizerConfig,
    PackedExamples,
    TrainConfig,
    _stack,
    build_step,
    optimizer,
    train,
)
from tradewind.training.losses import CrossEntropy
from tradewind.training.mesh import MeshConfig
from tradewind.training.taps import run_model

PLAIN = OptimizerConfig(learning_rate=1e-2, warmup=0.0)


def test_loss_of_packed_rows_is_that_of_each_sample_alone(model):
    """Reference without packing: every sample in a row of its own, all logits, a loop over target tokens."""
    samples = tiny_samples(9)
    packed = pack(samples, 40)
    batch, targets = PackedExamples(packed).take(np.arange(len(packed)))
    loss, _ = CrossEntropy()(run_model(model, batch), targets)
    total = count = 0.0
    for ids, mask in samples:
        tokens = np.zeros((1, 20), np.int32)  # causal: what follows a sample cannot reach it
        tokens[0, : len(ids)] = ids
        logits = np.asarray(model.logits(model.hidden(tokens, np.arange(20)[None])))[0].astype(np.float64)
        for i in range(1, len(ids)):
            if mask[i]:
                total += np.log(np.exp(logits[i - 1]).sum()) - logits[i - 1][ids[i]]
                count += 1
    np.testing.assert_allclose(loss, total / count, rtol=1e-5)


def one_step(packed, rows, accumulate, remat=False, products="default"):
    model = Decoder(TINY, rngs=nnx.Rngs(0))
    graph, weights, rest = nnx.split(model, nnx.Param, ...)
    transform = optax.sgd(1.0)
    step = build_step(graph, transform, CrossEntropy(), remat)
    feed = _stack(PackedExamples(packed), Schedule(len(packed), rows * accumulate, 0)[0], accumulate)
    with precision(products):
        weights, _, metrics = step(weights, transform.init(weights), rest, feed)
    return jax.tree.leaves(weights), metrics


@pytest.mark.parametrize(("rows", "accumulate", "remat"), [(2, 3, False), (1, 6, False), (6, 1, True)])
def test_accumulation_and_rematerialization_equal_one_big_batch(packed, rows, accumulate, remat):
    whole, metrics = one_step(packed, 6, 1)
    parts, same = one_step(packed, rows, accumulate, remat)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    np.testing.assert_allclose(metrics["loss"], same["loss"], rtol=1e-5)


@pytest.mark.parametrize(("rows", "accumulate", "remat"), [(6, 1, False), (6, 1, True), (2, 3, False)])
def test_a_step_in_bfloat16_is_near_that_in_float32_and_not_the_same(packed, rows, accumulate, remat):
    start = jax.tree.leaves(nnx.state(Decoder(TINY, rngs=nnx.Rngs(0)), nnx.Param))
    exact, _ = one_step(packed, 6, 1)
    near, _ = one_step(packed, rows, accumulate, remat, "bfloat16")
    error = sum(float(jnp.sum((a - b) ** 2)) for a, b in zip(exact, near, strict=True))
    moved = sum(float(jnp.sum((a - b) ** 2)) for a, b in zip(exact, start, strict=True))
    assert 0 < error < 1e-3 * moved


def test_training_lowers_the_loss_and_stops_when_the_tokens_are_spent(model, packed):
    config = TrainConfig(tokens=6 * packed.tokens, rows=4, optimizer=PLAIN)
    result = train(model, PackedExamples(packed), CrossEntropy(), config)
    spent = [entry["tokens"] for entry in result.log]
    assert sum(spent) >= config.tokens > sum(spent[:-1])
    assert result.log[-1]["loss"] < 0.9 * result.log[0]["loss"]
    assert [entry["step"] for entry in result.log] == list(range(1, len(spent) + 1))
    assert result.timed_tokens == sum(spent[1:])


def test_learning_rate_warms_up_and_decays_to_a_tenth():
    weights = {"w": np.ones(3, np.float32)}
    transform = optimizer(OptimizerConfig(learning_rate=1.0, warmup=0.2, b1=0.0, b2=0.0), 20)
    state, sizes = transform.init(weights), []
    for _ in range(20):
        updates, state = transform.update({"w": np.ones(3, np.float32)}, state, weights)
        sizes.append(float(-updates["w"][0]))
    assert sizes[0] == pytest.approx(0.2, rel=1e-3) and max(sizes) == pytest.approx(1.0, rel=1e-3)
    assert np.argmax(sizes) == 4 and sizes[-1] == pytest.approx(0.1, abs=0.02)
    assert sizes[4:] == sorted(sizes[4:], reverse=True)


def test_gradients_are_clipped_to_the_global_norm(packed):
    graph, weights, rest = nnx.split(Decoder(TINY, rngs=nnx.Rngs(0)), nnx.Param, ...)
    transform = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    feed = _stack(PackedExamples(packed), np.arange(4), 1)
    before = jax.tree.map(np.array, weights)
    after, _, metrics = build_step(graph, transform, CrossEntropy(), False)(
        weights, transform.init(weights), rest, feed
    )
    moved = optax.tree.norm(jax.tree.map(lambda a, b: a - b, before, after))
    assert metrics["gradient_norm"] > 1e-2
    assert float(moved) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TrainConfig(10, 3, PLAIN, mesh=MeshConfig(data=2)), "rows 3 is no multiple"),
        (TrainConfig(10, 10**6, PLAIN, mesh=MeshConfig(data=10**6)), "needs 1000000 devices"),
        (TrainConfig(0, 1, PLAIN), "must be at least 1"),
    ],
)
def test_impossible_configurations_are_user_errors(model, packed, config, message):
    with pytest.raises(UserError, match=message):
        train(model, PackedExamples(packed), CrossEntropy(), config)

"""Strategies of pruning: what each leaves, that it leaves the right things, and that refitting brings the student nearer."""

from dataclasses import replace

import numpy as np
import pytest

from tests.compression.distilling import CONFIG, batches_of, tiny_rows, tiny_teacher
from tests.compression.tiny import tiny_flat
from tradewind.compression.layerwise import answer_loss, enter, last, through
from tradewind.compression.prune import AFTER_REFIT, STRATEGIES, PruneConfig, cut, prune
from tradewind.compression.prune_depth import keep_layers, loss_increase
from tradewind.compression.prune_magnitude import is_matrix, sparsity
from tradewind.compression.prune_refit import solve_ridge
from tradewind.compression.prune_survey import look
from tradewind.errors import UserError
from tradewind.model.weights import check, to_model

AMOUNTS = {"layers": 3, "layers_by_loss": 4, "mlp_size": 64, "kv_heads": 1, "heads": 2, "hidden_size": 32,
           "hidden_channels": 32, "sparsity": 0.5}  # fmt: skip
SHAPES = {"layers": ("num_layers", 3), "layers_by_loss": ("num_layers", 4), "mlp_size": ("mlp_size", 64),
          "kv_heads": ("num_kv_heads", 1), "heads": ("num_heads", 2), "hidden_size": ("hidden_size", 32),
          "hidden_channels": ("hidden_size", 32), "sparsity": ("mlp_size", 96)}  # fmt: skip


@pytest.fixture(scope="module")
def batches():
    return batches_of(tiny_rows(count=60))


@pytest.fixture(scope="module")
def teacher():
    return tiny_teacher()


def ends(config, flat, batches):
    """The last residual stream of every token."""
    model, out = to_model(config, flat), []
    for batch in batches:
        x, place = enter(model, batch)
        out.append(np.asarray(last(model.layers, x, place))[batch.segments > 0])
    return np.concatenate(out)


def loss(config, flat, batches):
    model, total, count = to_model(config, flat), 0.0, 0.0
    for batch in batches:
        x, place = enter(model, batch)
        part, targets = answer_loss(model, last(model.layers, x, place), batch)
        total, count = total + part, count + targets
    return total / count


def influence(model, batches):
    return look(model, batches).influence


def without(flat, layer):
    """The weights with a layer that does nothing."""
    flat = {key: array.copy() for key, array in flat.items()}
    flat[f"model.layers.{layer}.self_attn.o_proj.weight"][:] = 0.0
    flat[f"model.layers.{layer}.mlp.down_proj.weight"][:] = 0.0
    return flat


def test_layerwise_running_is_the_whole_model(batches, teacher):
    model, batch = to_model(CONFIG, teacher), batches[0]
    _, states = model.hidden(batch.tokens, batch.positions, batch.segments, return_layers=True)
    x, place = enter(model, batch)
    for ours, theirs in zip([x, *through(model.layers, x, place)], states, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("entry", [{}, {"layers": 5, "mlp_size": 96, "heads": 4, "hidden_size": 64}, {"layers": 0}])
def test_nothing_pruned_is_the_original(batches, teacher, entry):
    pruned = prune(CONFIG, teacher, batches, PruneConfig([entry]))
    assert pruned.config == CONFIG and pruned.layers == tuple(range(5))
    assert all(np.array_equal(pruned.flat[name], array) for name, array in teacher.items())


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_gives_its_shape_and_the_refit_brings_the_student_nearer(batches, teacher, name):
    refitted, raw = (cut(CONFIG, teacher, batches, {name: AMOUNTS[name]}, ridge) for ridge in (0.01, 0.0))
    field, value = SHAPES[name]
    assert getattr(refitted.config, field) == value
    assert refitted.layers[0] == 0 and refitted.layers[-1] == 4
    check(refitted.config, {key: array.shape for key, array in refitted.flat.items()})
    goal = ends(CONFIG, teacher, batches)

    def distance(sketch):
        """How far the last residual stream is from the teacher's in the student's basis, each token relative."""
        wanted = goal if sketch.basis is None else goal @ sketch.basis
        error = ends(sketch.config, sketch.flat, batches) - wanted
        return float(((error / np.linalg.norm(goal, axis=1, keepdims=True)) ** 2).sum())

    if name not in AFTER_REFIT:
        assert distance(refitted) < 0.8 * distance(raw)


def test_the_order_in_an_entry_makes_no_difference(batches):
    """With two groups of four heads, where the groups' own choice of heads differs from that of all heads."""
    config = replace(CONFIG, num_heads=8, num_kv_heads=4, head_dim=16)
    teacher = tiny_flat(config)
    amounts = {"layers": 3, "mlp_size": 64, "kv_heads": 2, "heads": 2, "hidden_size": 32}
    one, two = (
        cut(config, teacher, batches, {name: amounts[name] for name in order}, 0.01)
        for order in (amounts, ["hidden_size", "heads", "mlp_size", "kv_heads", "layers"])
    )
    assert (one.config.num_heads, one.config.num_kv_heads) == (2, 2)
    assert one.config == two.config and one.layers == two.layers
    for name, array in one.flat.items():
        np.testing.assert_allclose(array, two.flat[name], atol=1e-4)


def test_neurons_that_never_fire_are_the_ones_cut(batches, teacher):
    dead = [3, 8, *range(20, 50)]
    flat = {name: array.copy() for name, array in teacher.items()}
    for layer in range(CONFIG.num_layers):
        flat[f"model.layers.{layer}.mlp.up_proj.weight"][dead] = 0.0
    pruned = cut(CONFIG, flat, batches, {"mlp_size": 64}, 0.0)
    assert pruned.config.mlp_size == 96 - len(dead)
    assert loss(pruned.config, pruned.flat, batches) == pytest.approx(loss(CONFIG, flat, batches), abs=1e-4)


@pytest.mark.parametrize(("entry", "dead"), [({"heads": 2}, (0, 3)), ({"kv_heads": 1}, (2, 3))])
def test_heads_that_say_nothing_are_the_ones_cut(batches, teacher, entry, dead):
    flat = {name: array.copy() for name, array in teacher.items()}
    for layer in range(CONFIG.num_layers):
        for head in dead:
            flat[f"model.layers.{layer}.self_attn.o_proj.weight"][:, 16 * head : 16 * (head + 1)] = 0.0
    pruned = cut(CONFIG, flat, batches, entry, 0.0)
    assert all(not set(kept) & set(dead) for kept in pruned.heads)
    assert loss(pruned.config, pruned.flat, batches) == pytest.approx(loss(CONFIG, flat, batches), abs=1e-4)
    scores = look(to_model(CONFIG, flat), batches).heads
    assert (scores[:, list(dead)] == 0).all() and (np.delete(scores, dead, axis=1) > 0).all()


@pytest.mark.parametrize("name", ["hidden_size", "hidden_channels"])
def test_a_stream_that_lies_in_fewer_dimensions_is_projected_without_loss(batches, teacher, name):
    """Every writer writes into 32 dimensions only (rotated ones for principal components); norms have a constant scale."""
    rng = np.random.default_rng(5)
    rotation = np.linalg.qr(rng.normal(size=(64, 64)))[0] if name == "hidden_size" else np.eye(64)
    into = (rotation[:, :32] @ rotation[:, :32].T).astype(np.float32)
    flat = {key: np.full_like(array, 1.5) if array.ndim == 1 else array for key, array in teacher.items()}
    for key in flat:
        if key.endswith(("o_proj.weight", "down_proj.weight")):
            flat[key] = into @ flat[key]
    flat["model.embed_tokens.weight"] = flat["model.embed_tokens.weight"] @ into
    pruned = cut(CONFIG, flat, batches, {name: 32}, 0.0)
    assert pruned.config.hidden_size == 32
    assert loss(pruned.config, pruned.flat, batches) == pytest.approx(loss(CONFIG, flat, batches), abs=1e-3)


def test_principal_components_hold_more_of_the_streams_than_channels(batches, teacher):
    moments = look(to_model(CONFIG, teacher), batches).moments
    assert moments.shape == (11, 64, 64)
    np.testing.assert_allclose(np.trace(moments, axis1=1, axis2=2), 1.0, rtol=1e-5)
    bases = [cut(CONFIG, teacher, batches, {name: 32}, 0.0).basis for name in ("hidden_size", "hidden_channels")]
    components, channels = (np.einsum("ik,nij,jk->", b, moments, b) for b in bases)
    assert components > channels
    np.testing.assert_allclose(bases[0].T @ bases[0], np.eye(32), atol=1e-5)


def test_magnitude_pruning_zeroes_the_smallest_and_keeps_the_rest(batches, teacher):
    pruned = cut(CONFIG, teacher, batches, {"sparsity": 0.4, "layers": 4}, 0.01)
    assert sparsity(pruned.flat) == pytest.approx(0.4, abs=1e-3)
    whole = cut(CONFIG, teacher, batches, {"layers": 4}, 0.01).flat
    for name, array in pruned.flat.items():
        kept = array != 0
        np.testing.assert_array_equal(array[kept], whole[name][kept])
        if is_matrix(name):
            assert np.abs(whole[name][~kept]).max() <= np.abs(whole[name][kept]).min()
        else:
            np.testing.assert_array_equal(array, whole[name])


@pytest.mark.parametrize("measure", [influence, loss_increase])
def test_a_layer_that_does_nothing_has_no_importance(batches, teacher, measure):
    scores = measure(to_model(CONFIG, without(teacher, 2)), batches)
    assert abs(scores[2]) < 1e-5
    if measure is influence:
        assert (np.delete(scores, 2) > 1e-3).all()


def test_loss_increase_is_the_loss_without_the_layer(batches, teacher):
    score = loss_increase(to_model(CONFIG, teacher), batches)[1]
    gone = loss(CONFIG, without(teacher, 1), batches) - loss(CONFIG, teacher, batches)
    assert score == pytest.approx(gone, abs=1e-4)


def test_kept_layers_are_the_most_important_with_the_ends():
    assert keep_layers(np.array([0.0, 3.0, 1.0, 2.0, 0.0]), 4) == (0, 1, 3, 4)


def test_ridge_matches_the_normal_equations_and_its_limits():
    rng = np.random.default_rng(0)
    x, y, start = rng.normal(size=(50, 6)), rng.normal(size=(50, 3)), rng.normal(size=(6, 3))
    weights = rng.random(50) + 0.5
    exact = np.linalg.lstsq(x * weights[:, None], y * weights[:, None], rcond=None)[0]
    np.testing.assert_allclose(solve_ridge(x, y, start, 1e-10, weights), exact, atol=1e-5)
    np.testing.assert_allclose(solve_ridge(x, y, start, 1e10, weights), start, atol=1e-5)


def test_a_schedule_recovers_between_its_entries_and_counts_layers_from_the_teacher(batches, teacher):
    seen = []

    def recover(config, flat, tokens):
        seen.append((config.num_layers, config.mlp_size, tokens))
        return {name: array * 0.99 for name, array in flat.items()}

    schedule = [{"layers": 4, "mlp_size": 64, "tokens": 70}, {"layers": 3, "tokens": 90}, {"mlp_size": 32}]
    pruned = prune(CONFIG, without(teacher, 1), batches, PruneConfig(schedule), recover)
    assert seen == [(4, 64, 70), (3, 64, 90)]
    assert (pruned.config.num_layers, pruned.config.mlp_size) == (3, 32)
    assert len(pruned.layers) == 3 and 1 not in pruned.layers and pruned.layers[-1] == 4


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"layers": 9}, r"prune\.layers: 9 asked for, the teacher has 5"),
        ({"mlp_size": 128}, r"prune\.mlp_size: 128 asked for, the teacher has 96"),
        ({"mlp_size": 40}, r"prune\.mlp_size: the width 40 is no multiple of 32"),
        ({"hidden_size": 40}, r"prune\.hidden_size: the width 40 is no multiple of 32"),
        ({"layers_by_loss": 9}, r"prune\.layers_by_loss: 9 asked for"),
        ({"hidden_channels": 40}, r"prune\.hidden_channels: the width 40"),
        ({"heads": 3}, r"prune\.heads: 3 is no multiple of the 2 KV heads"),
        ({"kv_heads": 1, "heads": 1}, r"prune\.heads: the width of the heads 16 is no multiple of 32"),
        ({"sparsity": 1.5}, r"prune\.sparsity: 1\.5 is not a share"),
        ({"layers": 3, "layers_by_loss": 3}, "dropped twice"),
        ({"mlp_size": "many"}, r"prune\.schedule: mlp_size: 'many' is not a number"),
        ({"layers": 3, "tokens": 70}, r"70 tokens of recovery, but no section `recovery`"),
        ({"magic": 3}, r"unknown strategy 'magic' .choices: layers, .*sparsity, tokens"),
    ],
)
def test_unusable_choices_are_user_errors(batches, teacher, entry, message):
    with pytest.raises(UserError, match=message):
        prune(CONFIG, teacher, batches, PruneConfig([entry]))

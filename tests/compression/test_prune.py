import numpy as np
import pytest

from tests.compression.distilling import CONFIG, WORDS, tiny_rows, tiny_teacher, tiny_tokenizer
from tradewind.compression.layerwise import answer_loss, enter, through
from tradewind.compression.prune import (
    EMBEDDING,
    IMPORTANCE,
    PruneConfig,
    keep_layers,
    prune,
    slice_vocabulary,
    solve_ridge,
    trim_vocabulary,
)
from tradewind.errors import UserError
from tradewind.model.weights import to_model


@pytest.fixture(scope="module")
def batches():
    packed = tiny_rows()
    return [packed.take(range(start, min(start + 4, len(packed)))) for start in range(0, len(packed), 4)]


@pytest.fixture(scope="module")
def teacher():
    return tiny_teacher()


def loss(config, flat, batches):
    model, total, count = to_model(config, flat), 0.0, 0.0
    for batch in batches:
        x, place = enter(model, batch)
        part, targets = answer_loss(model, [x, *through(model.layers, x, place)][-1], batch)
        total, count = total + part, count + targets
    return total / count


def test_layerwise_running_is_the_whole_model(batches, teacher):
    model, batch = to_model(CONFIG, teacher), batches[0]
    _, states = model.hidden(batch.tokens, batch.positions, batch.segments, return_layers=True)
    x, place = enter(model, batch)
    for ours, theirs in zip([x, *through(model.layers, x, place)], states, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("choice", [PruneConfig(), PruneConfig(layers=5, mlp_size=24, vocabulary=10**6)])
def test_nothing_pruned_is_the_original(batches, teacher, choice):
    pruned = prune(CONFIG, teacher, batches, choice)
    assert pruned.config == CONFIG and pruned.layers == tuple(range(5))
    assert all(np.array_equal(pruned.flat[name], array) for name, array in teacher.items())


@pytest.mark.parametrize(
    "choice", [PruneConfig(layers=3), PruneConfig(mlp_size=10), PruneConfig(layers=4, mlp_size=16)]
)
def test_a_pruned_student_has_its_shape_and_the_refit_helps(batches, teacher, choice):
    def student(ridge):
        shape = {"layers": choice.layers, "mlp_size": choice.mlp_size, "ridge": ridge}
        return prune(CONFIG, teacher, batches, PruneConfig(**shape))

    refitted, cut = student(0.01), student(0.0)
    assert refitted.config.num_layers == (choice.layers or 5) and refitted.config.mlp_size == (choice.mlp_size or 24)
    assert refitted.layers[0] == 0 and refitted.layers[-1] == 4

    def distance(pruned):
        """How far the final residual stream is from the teacher's, relative."""
        total = 0.0
        for batch in batches:
            ends = []
            for config, flat in ((CONFIG, teacher), (pruned.config, pruned.flat)):
                model = to_model(config, flat)
                x, place = enter(model, batch)
                ends.append(np.asarray(list(through(model.layers, x, place))[-1])[batch.segments > 0])
            total += float((((ends[1] - ends[0]) / np.linalg.norm(ends[0], axis=-1, keepdims=True)) ** 2).sum())
        return total

    assert distance(refitted) < 0.8 * distance(cut)


def test_neurons_that_never_fire_are_the_ones_cut(batches, teacher):
    dead = [3, 8, 20]
    flat = {name: array.copy() for name, array in teacher.items()}
    for layer in range(CONFIG.num_layers):
        flat[f"model.layers.{layer}.mlp.up_proj.weight"][dead] = 0.0
    pruned = prune(CONFIG, flat, batches, PruneConfig(mlp_size=21, ridge=0.0))
    assert all(set(range(24)) - set(kept) == set(dead) for kept in pruned.neurons)
    assert loss(pruned.config, pruned.flat, batches) == pytest.approx(loss(CONFIG, flat, batches), abs=1e-4)


@pytest.mark.parametrize("name", IMPORTANCE)
def test_a_layer_that_does_nothing_has_no_importance(batches, teacher, name):
    flat = {key: array.copy() for key, array in teacher.items()}
    flat["model.layers.2.self_attn.o_proj.weight"][:] = 0.0
    flat["model.layers.2.mlp.down_proj.weight"][:] = 0.0
    scores = IMPORTANCE[name](to_model(CONFIG, flat), batches)
    assert abs(scores[2]) < 1e-5
    if name == "block_influence":
        assert (np.delete(scores, 2) > 1e-3).all()


def test_loss_increase_is_the_loss_without_the_layer(batches, teacher):
    model = to_model(CONFIG, teacher)
    score = IMPORTANCE["loss_increase"](model, batches)[1]
    flat = {key: array.copy() for key, array in teacher.items()}
    flat["model.layers.1.self_attn.o_proj.weight"][:] = 0.0
    flat["model.layers.1.mlp.down_proj.weight"][:] = 0.0
    assert score == pytest.approx(loss(CONFIG, flat, batches) - loss(CONFIG, teacher, batches), abs=1e-4)


def test_kept_layers_are_the_most_important_with_the_ends():
    assert keep_layers(np.array([0.0, 3.0, 1.0, 2.0, 0.0]), 4) == (0, 1, 3, 4)
    assert keep_layers(np.array([0.0, 3.0, 1.0]), 0) == (0, 1, 2)


def test_ridge_matches_the_normal_equations_and_its_limits():
    rng = np.random.default_rng(0)
    x, y, start = rng.normal(size=(50, 6)), rng.normal(size=(50, 3)), rng.normal(size=(6, 3))
    weights = rng.random(50) + 0.5
    exact = np.linalg.lstsq(x * weights[:, None], y * weights[:, None], rcond=None)[0]
    np.testing.assert_allclose(solve_ridge(x, y, start, 1e-10, weights), exact, atol=1e-5)
    np.testing.assert_allclose(solve_ridge(x, y, start, 1e10, weights), start, atol=1e-5)


def test_a_trimmed_vocabulary_round_trips_and_maps_one_to_one(teacher):
    tokenizer = tiny_tokenizer()
    texts = [tokenizer.encode(" ".join(WORDS[:4] * 3))]
    student, ids = trim_vocabulary(tokenizer, texts, 300)
    assert len(ids) == len(set(ids)) == student.vocab_size <= 300
    for text in (" ".join(WORDS), "día 日本 🎉 x=1"):
        assert student.decode(student.encode(text)) == text
    assert all(student.token_bytes(new) == tokenizer.token_bytes(old) for new, old in enumerate(ids))
    assert len(student.encode(" ".join(WORDS[:4] * 3))) == len(texts[0])  # the domain's words keep their tokens


def test_sliced_embedding_rows_are_the_teachers(batches, teacher):
    pruned = prune(CONFIG, teacher, batches, PruneConfig())
    config, sliced = slice_vocabulary(pruned, [5, 0, 60], tiny_tokenizer())
    assert config.vocab_size == 3
    np.testing.assert_array_equal(sliced[EMBEDDING], teacher[EMBEDDING][[5, 0, 60]])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (PruneConfig(layers=9), "prune.layers: 9 asked for, the teacher has 5"),
        (PruneConfig(layers=3, importance="magic"), "unknown 'magic' .choices: block_influence, loss_increase"),
        (PruneConfig(mlp_size=99), "prune.mlp_size: 99 asked for, the teacher has 24"),
    ],
)
def test_unusable_choices_are_user_errors(batches, teacher, choice, message):
    with pytest.raises(UserError, match=message):
        prune(CONFIG, teacher, batches, choice)

import numpy as np
import pytest

from tests.compression.distilling import CONFIG, tiny_rows, tiny_teacher
from tradewind.compression.teacher_cache import (
    HEADER_FILE,
    WEIGHTS_FILE,
    TeacherCache,
    ask_teacher,
    data_digest,
    load_cache,
    mix,
    save_cache,
)
from tradewind.errors import UserError
from tradewind.files import read_json, write_json
from tradewind.model.weights import to_model
from tradewind.training.taps import Taps

STUDENT = np.array([0, 3, 4, 7, 11, 12, 20, 21, 33, 40, 55, 60])  # the teacher's id of each student id
DIGESTS = {"teacher": "t", "tokenizer": "k", "data": "d"}


@pytest.fixture(scope="module")
def teacher():
    return to_model(CONFIG, tiny_teacher())


@pytest.fixture(scope="module")
def cache(teacher):
    return ask_teacher(teacher, STUDENT, tiny_rows(vocab=len(STUDENT)), k=5, rows=3)


def dense(teacher, batch):
    """The teacher's log-probabilities over the student's vocabulary [B,A,V], and its hidden states, without a cache."""
    hidden = teacher.hidden(STUDENT[batch.tokens], batch.positions, batch.segments)
    hidden = np.take_along_axis(np.asarray(hidden), batch.where[..., None], axis=1)
    logits = np.asarray(teacher.logits(hidden)).astype(np.float64)[..., STUDENT]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True)), hidden


def test_the_cache_holds_the_teachers_top_tokens_renormalised_over_the_students_vocabulary(cache, teacher):
    logprobs, hidden = dense(teacher, cache.packed.rows)
    used = cache.packed.rows.weights > 0
    expected = -np.sort(-logprobs, axis=-1)[..., :5]
    np.testing.assert_allclose(cache.top_logprobs[used], expected[used], atol=4e-3, rtol=1e-3)  # float16
    picked = np.take_along_axis(logprobs, cache.top_ids, axis=-1)
    np.testing.assert_allclose(picked[used], expected[used], atol=1e-4)
    np.testing.assert_allclose(cache.tail[used], 1 - np.exp(expected).sum(-1)[used], atol=1e-4)
    np.testing.assert_allclose(cache.hidden[used], hidden[used], atol=1e-2)


def test_rows_at_a_time_make_no_difference(cache, teacher):
    again = ask_teacher(teacher, STUDENT, cache.packed, k=5, rows=4)
    np.testing.assert_allclose(again.tail, cache.tail, atol=1e-5)
    assert again.top_ids.shape == cache.top_ids.shape


def test_what_is_written_is_what_is_read(cache, tmp_path):
    save_cache(tmp_path / "cache", cache, DIGESTS)
    read = load_cache(tmp_path / "cache", DIGESTS)
    for name in ("top_ids", "top_logprobs", "tail", "hidden"):
        np.testing.assert_array_equal(getattr(read, name), getattr(cache, name))
    assert data_digest(read.packed) == data_digest(cache.packed)
    assert (read.packed.samples, read.packed.dropped) == (cache.packed.samples, cache.packed.dropped)
    batch, targets = read.take(np.array([1, 0]))
    np.testing.assert_array_equal(batch.tokens, cache.packed.rows.tokens[[1, 0]])
    np.testing.assert_array_equal(targets.top_ids, cache.top_ids[[1, 0]])


def test_the_same_cache_is_the_same_bytes(cache, tmp_path):
    for name in ("one", "two"):
        save_cache(tmp_path / name, cache, DIGESTS)
    for file in (WEIGHTS_FILE, HEADER_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("name", DIGESTS)
def test_a_cache_of_another_digest_is_refused_and_named(cache, tmp_path, name):
    save_cache(tmp_path / "cache", cache, DIGESTS)
    with pytest.raises(UserError, match=f"teacher cache of another {name}"):
        load_cache(tmp_path / "cache", DIGESTS | {name: "other"})


def test_another_version_or_a_damaged_file_is_refused(cache, tmp_path):
    folder = tmp_path / "cache"
    save_cache(folder, cache, DIGESTS)
    content = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"not the file that header\.json describes"):
        load_cache(folder, DIGESTS)
    write_json(folder / HEADER_FILE, read_json(folder / HEADER_FILE) | {"version": 99})
    with pytest.raises(UserError, match=r"teacher cache of version 99, this code reads .1, 2."):
        load_cache(folder, DIGESTS)


def test_a_cache_of_version_1_is_read_as_one_without_streams_and_relations(cache, tmp_path):
    save_cache(tmp_path / "cache", cache, DIGESTS)
    header = read_json(tmp_path / "cache" / HEADER_FILE)
    old = {key: value for key, value in header.items() if key not in ("layers", "streams", "relation_heads")}
    write_json(tmp_path / "cache" / HEADER_FILE, old | {"version": 1})
    read = load_cache(tmp_path / "cache", DIGESTS)
    assert read.streams is None and read.relations is None
    np.testing.assert_array_equal(read.hidden, cache.hidden)


def test_streams_and_relations_are_the_dense_ones_and_are_kept(teacher, tmp_path):
    taps = Taps((0, 2, 5), 2)
    asked = ask_teacher(teacher, STUDENT, tiny_rows(vocab=len(STUDENT)), k=5, rows=3, taps=taps)
    save_cache(tmp_path / "cache", asked, DIGESTS)
    read = load_cache(tmp_path / "cache", DIGESTS)
    assert read.taps == taps and read.layers == 5
    rows = read.packed.rows
    _, states = teacher.hidden(STUDENT[rows.tokens], rows.positions, rows.segments, return_layers=True)
    used = rows.weights > 0
    for place, layer in enumerate(taps.streams):
        state = np.take_along_axis(np.asarray(states[layer]), rows.where[..., None], axis=1)[used]
        unit = state / np.sqrt((state**2).mean(-1, keepdims=True))
        np.testing.assert_allclose(read.streams[used][:, place], unit, atol=5e-3)
    assert read.relations.shape == (*rows.where.shape, 6, rows.where.shape[1])
    np.testing.assert_allclose(read.relations[used].astype(np.float32).sum(-1), 1.0, atol=5e-3)
    _, targets = read.take(np.array([0]))
    assert targets.streams.shape[2] == 3 and targets.relations.shape[2] == 6


def test_a_mixed_cache_has_the_share_asked_for(cache):
    own = ask_teacher_rows(cache, 3)
    joined = mix(own, cache, 0.5, [0, 1])
    assert len(joined.packed) == 6 and len(joined.top_ids) == 6
    np.testing.assert_array_equal(joined.hidden[:3], own.hidden)
    again, other = mix(own, cache, 0.5, [0, 1]), mix(own, cache, 0.5, [0, 2])
    np.testing.assert_array_equal(again.packed.rows.tokens, joined.packed.rows.tokens)
    assert not np.array_equal(other.packed.rows.tokens, joined.packed.rows.tokens)
    assert len(mix(own, cache, 1.0, [0]).packed) == 3


def ask_teacher_rows(cache, count):
    part = {name: array[:count] for name, array in cache.arrays().items()}
    return TeacherCache(cache.packed.head(count), **part, taps=cache.taps, layers=cache.layers)


def test_a_layer_that_the_teacher_lacks_is_a_user_error(teacher):
    with pytest.raises(UserError, match=r"teacher_cache\.streams: 6 is not within the teacher's 5 layers"):
        ask_teacher(teacher, STUDENT, tiny_rows(vocab=len(STUDENT)), k=5, rows=2, taps=Taps((6,)))


def test_more_tokens_than_the_vocabulary_has_is_a_user_error(teacher):
    with pytest.raises(UserError, match="13 is not within the student's vocabulary of 12"):
        ask_teacher(teacher, STUDENT, tiny_rows(vocab=len(STUDENT)), k=13, rows=2)

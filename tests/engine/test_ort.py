"""What the `ort` engine adds to the contract: its memory, its rows, and its errors at loading."""

from pathlib import Path

import numpy as np
import pytest

import tradewind.engine.ort as module
from tests.compression.tiny import CONFIG, tiny_scales, tiny_variant
from tradewind.compression.variant import MANIFEST, MAX_FEED
from tradewind.engine import load_engine
from tradewind.engine.ort import OrtEngine, OrtPrefix
from tradewind.errors import UserError
from tradewind.files import read_json, sha256_file, write_json

PROMPT = np.random.default_rng(0).integers(0, CONFIG.vocab_size, 40).tolist()


@pytest.fixture(scope="module", params=["fp32", "int8"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 model with a float32 cache, and an int8 one with an int8 cache."""
    made = tmp_path_factory.mktemp("ort") / f"base-{request.param}"
    tiny_variant(made, str(request.param))
    return made


@pytest.fixture
def engine(folder: Path):
    made = OrtEngine.load(folder, slots=4, max_len=64, threads=1)
    yield made
    made.close()


def rows_as_inserted(engine: OrtEngine, lengths: dict[int, int]) -> None:
    for slot, length in lengths.items():
        engine.insert(engine.prefill(PROMPT[:length]), slot)


def cache(engine: OrtEngine, slot: int) -> np.ndarray:
    return engine._kv[:, engine._dense.index(slot), :, : engine.length(slot)].copy()


def test_a_step_writes_the_fed_rows_only(engine):
    rows_as_inserted(engine, {0: 5, 1: 30, 2: 64 - 24, 3: 2})
    before = {slot: cache(engine, slot) for slot in range(4)}
    spare = engine._kv[:, engine._dense.index(2), :, 40:].copy()
    want = engine.step({1: [1, 2, 3], 3: [4]})
    engine.rewind(1, 30)
    engine.rewind(3, 2)
    engine._kv[:, engine._dense.index(1), :, 30:] = np.nan if engine._kv.dtype == np.float32 else 127
    lines = engine.step({1: [1, 2, 3], 3: [4]})
    assert all(np.array_equal(lines[slot], want[slot]) for slot in (1, 3))  # what is not written yet is not read
    assert [engine.length(slot) for slot in range(4)] == [5, 33, 40, 3]
    for slot in range(4):
        assert np.array_equal(cache(engine, slot)[:, :, : before[slot].shape[2]], before[slot])
    assert np.array_equal(engine._kv[:, engine._dense.index(2), :, 40:], spare)


def test_a_full_row_may_idle_beside_any_feed(engine):
    rows_as_inserted(engine, {0: 40, 1: 3})
    while engine.length(0) < engine.max_len:
        engine.step({0: [1]})
    before = cache(engine, 0)
    lines = engine.step({1: [1] * MAX_FEED})[1]
    assert np.array_equal(cache(engine, 0), before)
    assert np.isfinite(lines).all()


def test_occupied_rows_stay_dense(engine):
    rows_as_inserted(engine, {3: 5, 0: 9, 2: 4})
    moved = cache(engine, 2)
    engine.release(3)
    assert sorted(engine._dense) == [0, 2]
    assert np.array_equal(cache(engine, 2), moved)
    engine.release(2)
    engine.release(0)
    assert engine._dense == []


def test_rows_of_one_token_are_bound_once(engine, monkeypatch):
    rows_as_inserted(engine, {0: 5, 1: 9})
    engine.step({0: [1], 1: [1]})
    monkeypatch.setattr(module, "_Call", None)
    for _ in range(3):
        engine.step({0: [1], 1: [1]})


def test_chunks_of_one_prompt_share_a_row_and_are_exact(engine):
    first = engine.prefill(PROMPT, budget=7)
    kept = first
    while kept.pending:
        kept = engine.prefill((), past=kept, budget=7)
    assert kept.row is first.row
    whole = engine.prefill(PROMPT)
    assert np.array_equal(kept.logits, whole.logits)


def test_the_second_continuation_of_a_prefix_copies(engine):
    start = engine.prefill(PROMPT[:10], budget=6)
    one = engine.prefill((), past=start)
    held = one.row.kv[:, :, :, :10].copy()
    other = engine.prefill([7], past=start)
    assert one.row is start.row
    assert other.row is not start.row
    assert np.array_equal(one.row.kv[:, :, :, :10], held)
    assert start.cut(3).row is start.row
    assert engine.prefill([1], past=start.cut(3)).row is not start.row


def test_internal_chunks_change_no_token(engine, monkeypatch):
    whole = engine.prefill(PROMPT, keep_logits=True)
    monkeypatch.setattr(module, "CHUNK", 9)
    cut = engine.prefill(PROMPT, keep_logits=True)
    assert np.array_equal(cut.all_logits, whole.all_logits)
    assert np.array_equal(engine.prefill(PROMPT).logits, whole.logits)


def test_a_prefix_counts_the_bytes_it_keeps(engine):
    prefix = engine.prefill(PROMPT[:10])
    assert isinstance(prefix, OrtPrefix)
    values = 10 * 2 * CONFIG.num_layers * CONFIG.num_kv_heads * CONFIG.head_dim
    assert prefix.nbytes == values * engine._kv.itemsize


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_an_int8_cache_makes_logits_the_same_however_they_are_fed(tmp_path, precision):
    tiny_variant(tmp_path / "v", precision)
    engine = OrtEngine.load(tmp_path / "v", slots=4, max_len=64, threads=1)
    whole = engine.prefill(PROMPT, keep_logits=True).all_logits[20:]
    start = engine.prefill(PROMPT[:20])
    for rows, width in ((1, 1), (1, 2), (1, 7), (1, 16), (2, 1), (4, 1), (4, 5)):
        for slot in range(rows):
            engine.insert(start, slot)
        for place in range(20, 40, width):
            lines = engine.step(dict.fromkeys(range(rows), PROMPT[place : place + width]))
            for made in lines.values():
                assert np.array_equal(made, whole[place - 20 : place - 20 + width]), (rows, width, place)
        for slot in range(rows):
            engine.release(slot)
    engine.close()


def test_an_int8_cache_is_a_quarter_and_clips(tmp_path):
    tiny_variant(tmp_path / "i", "int8")
    tiny_variant(tmp_path / "f", "int8", accuracy_level=0)
    small, large = (OrtEngine.load(tmp_path / name, slots=2, max_len=64, threads=1) for name in "if")
    assert 4 * small.kv_bytes == large.kv_bytes
    first = slice(2)  # keys and values of layer 0, which no rounded attention precedes
    codes, values = (engine.prefill(PROMPT).row.kv[first] for engine in (small, large))
    restored = codes * tiny_scales()[first, None, :, None]
    clipped = np.abs(codes) == 127
    relative = np.sqrt(np.square((restored - values)[~clipped]).sum() / np.square(values[~clipped]).sum())
    assert relative < 0.03  # a rounding to 1/127 of a channel's range, and int8 activations before it
    assert 0 < clipped.mean() < 0.05
    assert (np.sign(codes) == np.sign(values))[clipped].all()


def test_loading_mistakes_are_one_line(folder, tmp_path):
    for slots, max_len, message in (
        (0, 64, "slots must be"),
        (1, CONFIG.max_position + 1, r"max_len must be in 1\.\.128"),
    ):
        with pytest.raises(UserError, match=message):
            load_engine(folder, "ort", slots=slots, max_len=max_len)
    broken = tmp_path / "broken"
    tiny_variant(broken, "int8")
    (broken / "model.onnx").write_bytes(b"no graph")
    stored = read_json(broken / MANIFEST)
    stored["digests"]["model.onnx"] = {"bytes": 8, "sha256": sha256_file(broken / "model.onnx")}
    write_json(broken / MANIFEST, stored)
    with pytest.raises(UserError, match=r"model\.onnx: ONNX Runtime cannot load it"):
        load_engine(broken, "ort", slots=1, max_len=64)
    (broken / "model.onnx.data").unlink()
    with pytest.raises(UserError, match=r"model\.onnx"):
        load_engine(broken, "ort", slots=1, max_len=64)

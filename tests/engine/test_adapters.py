"""Adapters in every engine: alone = batched with others, merged = adapted, fixed for a prefix, safe to load and unload."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.compression.tiny import CONFIG, reference_logits, tiny_flat, tiny_variant
from tests.engine.adapters import merged, tiny_adapter
from tests.engine.conftest import FACTORIES, freed
from tests.engine.test_contract import CLOSE, best, go_on
from tradewind.engine import load_engine
from tradewind.engine.contract import AdapterInUse, BadFeed, Engine, EngineError, Prefix, UnknownAdapter
from tradewind.engine.ort import OrtEngine
from tradewind.errors import UserError
from tradewind.model.weights import weights_digest

PROMPTS = ([5, 9, 2, 7, 1], [3], [11, 4, 8, 8, 8, 8, 2, 10, 6, 1, 0, 12], [1, 2, 3, 4, 5, 6, 7])
WHO = ("some", None, "all", "top")
NEW = 8
ENGINES = ("mock", "ort-fp32", "ort-int8", "jax-fp32", "jax-int8")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of unlike ranks, modules and layers."""
    under = tmp_path_factory.mktemp("adapters")
    return {
        "all": tiny_adapter(under / "all", 1),
        "some": tiny_adapter(under / "some", 2, rank=2, modules=("q", "v")),
        "top": tiny_adapter(under / "top", 3, rank=8, layers=1),
    }


@pytest.fixture(scope="module", params=ENGINES)
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]
) -> Iterator[Engine]:
    made = FACTORIES[request.param](tmp_path_factory.mktemp("variants"))
    for name, folder in folders.items():
        made.load_adapter(name, folder)
    yield made
    made.close()


@pytest.fixture
def engine(loaded: Engine) -> Iterator[Engine]:
    yield from freed(loaded)


def alone(engine: Engine, prompt: Sequence[int], adapter: str | None, budget: int | None = None) -> list[int]:
    prefix = engine.prefill(prompt, adapter=adapter, budget=budget)
    while prefix.pending:
        prefix = engine.prefill((), past=prefix, budget=budget)
    return go_on(engine, 0, prefix)


def test_rows_with_other_adapters_and_none_share_a_batch(engine: Engine) -> None:
    want = [alone(engine, prompt, who) for prompt, who in zip(PROMPTS, WHO, strict=True)]
    out: dict[int, list[int]] = {}
    for slot, (prompt, who) in enumerate(zip(PROMPTS, WHO, strict=True)):
        out[slot] = [first(engine, slot, engine.prefill(prompt, adapter=who))]
    for _ in range(NEW - 1):
        for slot, lines in engine.step({slot: [made[-1]] for slot, made in out.items()}).items():
            out[slot].append(best(lines[-1]))
    assert list(out.values()) == want


def first(engine: Engine, slot: int, prefix: Prefix) -> int:
    engine.insert(prefix, slot)
    assert prefix.logits is not None
    return best(prefix.logits)


def test_rows_join_leave_and_move(engine: Engine) -> None:
    """Slots are freed below others, and reused by another adapter's."""
    want = {who: alone(engine, PROMPTS[0], who) for who in WHO}
    for slot, who in enumerate(WHO):
        first(engine, slot, engine.prefill(PROMPTS[0], adapter=who))
    engine.release(0)
    engine.release(2)
    first(engine, 2, engine.prefill(PROMPTS[0], adapter="some"))
    lines = engine.step({slot: [want[who][0]] for slot, who in ((1, None), (2, "some"), (3, "top"))})
    assert [best(lines[slot][-1]) for slot in (1, 2, 3)] == [want[who][1] for who in (None, "some", "top")]


def test_chunks_and_forks_keep_the_adapter(engine: Engine) -> None:
    want = alone(engine, PROMPTS[2], "all")
    assert alone(engine, PROMPTS[2], "all", budget=5) == want
    first(engine, 1, engine.prefill(PROMPTS[2], adapter="all"))
    fork = engine.fork(1)
    assert fork.adapter == "all"
    assert best(engine.step({1: [want[0]]})[1][-1]) == want[1]
    after = engine.prefill([want[0]], past=fork)
    assert after.adapter == "all"
    assert after.logits is not None
    assert best(after.logits) == want[1]
    assert engine.prefill([1], past=fork.cut(3)).adapter == "all"


def test_each_adapter_and_the_base_answer_otherwise(engine: Engine) -> None:
    answers = [tuple(alone(engine, PROMPTS[2], who)) for who in WHO]
    assert len(set(answers)) == len(WHO)


def test_a_prefix_keeps_its_adapter(engine: Engine) -> None:
    past = engine.prefill(PROMPTS[0], adapter="all")
    assert engine.prefill([1], past=past, adapter="all").adapter == "all"
    for prefix, who in ((past, "some"), (engine.prefill(PROMPTS[0]), "all")):
        with pytest.raises(BadFeed, match="was started with"):
            engine.prefill([1], past=prefix, adapter=who)


def test_an_unknown_one_is_refused(engine: Engine) -> None:
    with pytest.raises(UnknownAdapter, match=r"'other' is not loaded; loaded: .'all', 'some'"):
        engine.prefill([1], adapter="other")
    with pytest.raises(UnknownAdapter):
        engine.drop_adapter("other")


def test_one_in_use_stays(engine: Engine, folders: dict[str, Path]) -> None:
    """And others may go and come while its rows run."""
    want = alone(engine, PROMPTS[0], "all")
    kept = engine.prefill(PROMPTS[0], adapter="some")
    first(engine, 1, engine.prefill(PROMPTS[0], adapter="all"))
    with pytest.raises(AdapterInUse, match="slot 1"):
        engine.drop_adapter("all")
    engine.drop_adapter("some")
    for call in (lambda: engine.insert(kept, 0), lambda: engine.prefill([1], past=kept)):
        with pytest.raises(UnknownAdapter):
            call()
    assert best(engine.step({1: [want[0]]})[1][-1]) == want[1]
    engine.load_adapter("some", folders["some"])
    assert best(engine.step({1: [want[1]]})[1][-1]) == want[2]
    engine.release(1)
    assert go_on(engine, 0, kept) == alone(engine, PROMPTS[0], "some")


def test_a_name_stands_for_one_content(engine: Engine, folders: dict[str, Path]) -> None:
    with pytest.raises(EngineError, match="loaded already"):
        engine.load_adapter("all", folders["all"])
    engine.drop_adapter("top")
    with pytest.raises(EngineError, match="was another one before"):
        engine.load_adapter("top", folders["all"])
    engine.load_adapter("top", folders["top"])
    assert engine.adapters["top"].digest != engine.adapters["all"].digest


@pytest.mark.parametrize("loaded", ["ort-fp32", "jax-fp32"], indirect=True)
@pytest.mark.parametrize("who", ["all", "some", "top"])
def test_merged_weights_say_the_same(engine: Engine, who: str, folders: dict[str, Path]) -> None:
    """As the decoder of the training code says over merged weights; logits spread over tens."""
    for prompt in PROMPTS[::2]:
        got = engine.prefill(prompt, adapter=who, keep_logits=True).all_logits
        tokens = alone(engine, prompt, who)
        want = reference_logits(CONFIG, merged(folders[who]), [*prompt, *tokens[:-1]])
        assert got is not None
        np.testing.assert_allclose(got, want[: len(prompt)], atol=CLOSE)
        assert [best(line) for line in want[len(prompt) - 1 :]] == tokens


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_the_base_of_ort_says_what_it_said_to_the_last_bit(
    precision: str, tmp_path: Path, folders: dict[str, Path]
) -> None:
    tiny_variant(tmp_path / "v", precision)
    engine = OrtEngine.load(tmp_path / "v", slots=2, max_len=64, threads=1)

    def lines() -> list[np.ndarray]:
        prefix = engine.prefill(PROMPTS[2], keep_logits=True)
        engine.insert(prefix, 0)
        assert prefix.all_logits is not None
        return [prefix.all_logits, engine.step({0: [1]} | ({1: [2]} if engine.length(1) else {}))[0].copy()]

    before = lines()
    engine.release(0)
    opened = engine.open_adapter(folders["all"])
    engine.add_adapter("all", opened)
    engine.insert(engine.prefill(PROMPTS[0], adapter="all"), 1)
    for one, other in zip(before, lines(), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("loaded", ["ort-int8"], indirect=True)
def test_exact_feeds_are_exact_with_adapters(engine: Engine) -> None:
    """Alone, several at once, and beside rows with others: the same to the last bit."""
    assert engine.exact_feeds
    tokens = [7 * place % engine.vocab_size for place in range(12)]
    start = engine.prefill(tokens[:7], adapter="some")
    engine.insert(start, 0)
    single = np.stack([engine.step({0: [token]})[0][-1].copy() for token in tokens[7:]])
    engine.rewind(0, 7)
    assert np.array_equal(engine.step({0: tokens[7:]})[0], single)
    engine.rewind(0, 7)
    for slot, who in ((1, "top"), (2, None), (3, "all")):
        engine.insert(engine.prefill(tokens[slot:], adapter=who), slot)
    assert np.array_equal(engine.step({slot: [tokens[7]] for slot in range(4)})[0][-1], single[0])


@pytest.mark.parametrize("kind", ["ort", "jax"])
def test_an_adapter_of_other_weights_is_refused(kind: str, tmp_path: Path) -> None:
    """A quantized variant takes those of the one that it approximates."""
    for precision in ("fp32", "int8"):
        tiny_variant(tmp_path / f"base-{precision}", precision)
    made = load_engine(tmp_path / "base-int8", kind, slots=1, max_len=32, threads=1)
    right = tiny_adapter(tmp_path / "right", 1, base=weights_digest(tiny_flat()))
    wrong = tiny_adapter(tmp_path / "wrong", 1, base=weights_digest(tiny_flat(seed=1)))
    made.load_adapter("right", right)
    with pytest.raises(UserError, match="was trained on weights"):
        made.load_adapter("wrong", wrong)
    assert list(made.adapters) == ["right"]

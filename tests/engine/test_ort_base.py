"""The exported base checkpoint against the golden file, the JAX decoder, and its own float32 weights."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.golden import MAX_DELTA, compare, load_golden
from tradewind.compression.export import write_variant
from tradewind.compression.kv_cache import Scales, kv_scales
from tradewind.compression.quantize import Tensor, dequantize, quantize
from tradewind.compression.recipe import read_recipe
from tradewind.config import read_params
from tradewind.engine.ort import OrtEngine
from tradewind.files import read_json
from tradewind.model.decoder import DecoderConfig
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import Flat, load_hf, to_model, weights_digest
from tradewind.training.data import pack

pytestmark = pytest.mark.needs_base
Open = Callable[..., OrtEngine]


@pytest.fixture(scope="module")
def base(base_folder: Path) -> tuple[DecoderConfig, Flat]:
    return load_hf(base_folder)


@pytest.fixture(scope="module")
def prompts(base_folder: Path, root: Path) -> list[list[int]]:
    """The tokens of the golden file's prompts."""
    tokenizer, asked = Tokenizer.load(base_folder), read_json(root / "tests" / "parity" / "prompts.json")
    return [tokenizer.encode(p["text"]) if "text" in p else tokenizer.chat(p["messages"]) for p in asked]


@pytest.fixture(scope="module")
def open_variant(
    base: tuple[DecoderConfig, Flat],
    base_folder: Path,
    prompts: list[list[int]],
    root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Open]:
    """`open_variant(precision, accuracy_level, slots)`: the base, rounded by the rules that are served. Products in
    float32 (accuracy level 0) have a cache in float32."""
    config, flat = base
    tokenizer, folder = Tokenizer.load(base_folder), tmp_path_factory.mktemp("base")
    recipes = read_params(root / "params.yaml")["quantize"]["recipes"]

    def make(precision: str, accuracy_level: int = 4, slots: int = 1) -> OrtEngine:
        made = folder / f"{precision}-{accuracy_level}"
        if not made.exists():
            tensors: dict[str, Tensor] = rounded(flat, recipes, precision)
            served = precision != "fp32" and accuracy_level
            scales = base_scales(config, flat, prompts) if served else None
            write_variant(made, f"base-{precision}", config, tensors, tokenizer, {}, accuracy_level, scales)
        return OrtEngine.load(made, slots=slots, max_len=320, threads=2)

    yield make
    shutil.rmtree(folder)


def rounded(flat: Flat, recipes: Mapping[str, Any], precision: str) -> dict[str, Tensor]:
    return dict(flat) if precision == "fp32" else quantize(flat, read_recipe(recipes[precision]).rules)


def base_scales(config: DecoderConfig, flat: Flat, prompts: Sequence[Sequence[int]]) -> Scales:
    """From the golden file's other half of prompts than those that the served weights are judged on."""
    packed = pack([(prompt, [1] * len(prompt)) for prompt in prompts[1::2]], 320)
    return kv_scales(to_model(config, flat), (packed.take([row]) for row in range(len(packed))))


def every_logit(engine: OrtEngine, prompts: Sequence[Sequence[int]]) -> list[np.ndarray]:
    lines = [engine.prefill(prompt, keep_logits=True).all_logits for prompt in prompts]
    engine.close()
    return [line for line in lines if line is not None]


def test_float32_equals_the_golden_file(open_variant: Open, base: tuple[DecoderConfig, Flat], record_property) -> None:
    golden = load_golden(weights_digest(base[1]))
    engine = open_variant("fp32", slots=len(golden.prompts))

    def logits(tokens: Sequence[int]) -> np.ndarray:
        made = engine.prefill(tokens, keep_logits=True).all_logits
        assert made is not None
        return made

    delta = compare(golden, logits).max_delta
    texts = greedy_together(engine, [prompt.tokens for prompt in golden.prompts], len(golden.prompts[0].greedy))
    result = compare(golden, greedy=lambda tokens, _: texts[tuple(tokens)])
    engine.close()
    record_property("max_delta", delta)
    record_property("ties", result.ties)
    assert delta <= MAX_DELTA
    assert not result.wrong, f"greedy tokens part at (prompt, step) {result.wrong}"


def greedy_together(
    engine: OrtEngine, prompts: Sequence[Sequence[int]], count: int
) -> dict[tuple[int, ...], list[int]]:
    """Greedy tokens of all prompts in one batch of rows."""
    texts: dict[int, list[int]] = {}
    for slot, prompt in enumerate(prompts):
        prefix = engine.prefill(prompt)
        assert prefix.logits is not None
        engine.insert(prefix, slot)
        texts[slot] = [int(prefix.logits.argmax())]
    while len(texts[0]) < count:
        for slot, lines in engine.step({slot: text[-1:] for slot, text in texts.items()}).items():
            texts[slot].append(int(lines[-1].argmax()))
    return {tuple(prompt): texts[slot] for slot, prompt in enumerate(prompts)}


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_float_products_equal_the_jax_decoder(
    open_variant: Open, base: tuple[DecoderConfig, Flat], prompts: list[list[int]], root: Path, precision: str
) -> None:
    """Accuracy level 0: the same codes and scales multiplied in float32 by two runtimes."""
    config, flat = base
    recipes = read_params(root / "params.yaml")["quantize"]["recipes"]
    model = to_model(config, dequantize(rounded(flat, recipes, precision)))
    prompt = max(prompts, key=len)
    (ours,) = every_logit(open_variant(precision, accuracy_level=0), [prompt])
    places = jnp.arange(len(prompt))[None]
    theirs = np.asarray(model.logits(model.hidden(jnp.asarray([prompt], jnp.int32), places)))[0]
    assert np.abs(ours - theirs).max() <= MAX_DELTA


def test_served_int8_is_near_lossless(open_variant: Open, prompts: list[list[int]], record_property) -> None:
    """KL to the float32 weights at most 0.01 nats, the project's bound for what it serves; seen: about 0.005."""
    parent, served = (every_logit(open_variant(precision), prompts[::2]) for precision in ("fp32", "int8"))
    found = [divergence(p, q) for p, q in zip(parent, served, strict=True)]
    kl, agree = (np.concatenate([row[i] for row in found]).mean() for i in (0, 1))
    record_property("kl", float(kl))
    record_property("top1", float(agree))
    assert kl <= 0.01
    assert agree >= 0.94


def divergence(parent: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """KL(parent || other) in nats and equality of the best token, per position."""
    p, q = (x - np.logaddexp.reduce(x.astype(np.float64), axis=-1, keepdims=True) for x in (parent, other))
    return (np.exp(p) * (p - q)).sum(axis=-1), parent.argmax(axis=-1) == other.argmax(axis=-1)


def test_greedy_tokens_are_the_same_alone_and_batched(open_variant: Open, prompts: list[list[int]]) -> None:
    """The served int8 weights: eight rows of different lengths at once, and each alone."""
    engine = open_variant("int8", slots=8)
    together = greedy_together(engine, prompts[:8], 24)
    for slot in range(8):
        engine.release(slot)
    for prompt in prompts[:8]:
        assert greedy_together(engine, [prompt], 24)[tuple(prompt)] == together[tuple(prompt)]
        engine.release(0)
    engine.close()

"""The JAX decoder and the `jax` engine against an independent implementation, on the real base checkpoint."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.parity.golden import MAX_DELTA, Golden, compare, load_golden
from tradewind.engine.jax import JaxEngine
from tradewind.model.decoder import Decoder
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf, to_model, weights_digest

pytestmark = pytest.mark.needs_base
WIDTH = 256
"""Every prompt is padded to one length, so that one compiled function runs them all."""


@pytest.fixture(scope="module")
def base(base_folder: Path) -> tuple[Decoder, str]:
    config, flat = load_hf(base_folder)
    return to_model(config, flat), weights_digest(flat)


@pytest.fixture(scope="module")
def golden(base: tuple[Decoder, str]) -> Golden:
    return load_golden(base[1])


def test_logits(base: tuple[Decoder, str], golden: Golden) -> None:
    run = nnx.jit(lambda model, tokens, segments: model.logits(model.hidden(tokens, jnp.arange(WIDTH)[None], segments)))

    def logits(tokens: list[int]) -> np.ndarray:
        padded = np.zeros((1, WIDTH), np.int32)
        padded[0, : len(tokens)] = tokens
        return np.asarray(run(base[0], padded, np.int32(np.arange(WIDTH) < len(tokens))[None]))[0, : len(tokens)]

    assert compare(golden, logits).max_delta <= MAX_DELTA


def test_greedy_tokens_of_the_engine(base: tuple[Decoder, str], golden: Golden, record_property) -> None:
    """All prompts at once, through prefill, slots and steps."""
    model, digest = base
    engine = JaxEngine(model, digest, slots=len(golden.prompts), max_len=WIDTH + 64)
    lines, texts = {}, {}
    for slot, prompt in enumerate(golden.prompts):
        prefix = engine.prefill(prompt.tokens)
        engine.insert(prefix, slot)
        texts[slot], lines[slot] = [], prefix.logits
    for _ in range(len(golden.prompts[0].greedy)):
        for slot, line in lines.items():
            texts[slot].append(int(line.argmax()))
        lines = {slot: made[-1] for slot, made in engine.step({s: t[-1:] for s, t in texts.items()}).items()}
    made = {tuple(prompt.tokens): texts[slot] for slot, prompt in enumerate(golden.prompts)}
    result = compare(golden, greedy=lambda tokens, _: made[tuple(tokens)])
    record_property("ties", result.ties)
    assert not result.wrong, f"greedy tokens part at (prompt, step) {result.wrong}"


def test_the_prompts_are_what_our_tokenizer_makes(base_folder: Path, golden: Golden) -> None:
    tokenizer = Tokenizer.load(base_folder)
    prompts = json.loads(Path(__file__).with_name("prompts.json").read_text(encoding="utf-8"))
    made = [tokenizer.encode(p["text"]) if "text" in p else tokenizer.chat(p["messages"]) for p in prompts]
    assert made == [prompt.tokens for prompt in golden.prompts]


def test_a_golden_file_of_other_weights_is_refused() -> None:
    with pytest.raises(pytest.fail.Exception, match="was made of weights"):
        load_golden("0123456789abcdef")


def test_the_comparison_notices(golden: Golden) -> None:
    """A wrong logit and a wrong token are found; at a near tie a token is listed and not wrong."""

    def almost(tokens: list[int]) -> np.ndarray:
        prompt = next(p for p in golden.prompts if p.tokens == list(tokens))
        lines = np.zeros((len(tokens), 1 + int(prompt.top_ids.max())), np.float32)
        np.put_along_axis(lines, prompt.top_ids, prompt.top_logits, axis=1)
        lines[0, prompt.top_ids[0, 31]] += 0.5
        return lines

    assert compare(golden, almost).max_delta == pytest.approx(0.5, abs=1e-3)
    result = compare(golden, greedy=lambda tokens, count: [-1] * count)
    assert len(result.wrong) + len(result.ties) == len(golden.prompts)

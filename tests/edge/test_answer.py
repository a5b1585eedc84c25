"""A question under a memory cap, asked as a user does."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.compression.tiny import VOCABULARY, tiny_tokenizer, tiny_variant
from tests.support import ROOT
from tradewind.corpus.prompt import conversation
from tradewind.edge import answer
from tradewind.edge.__main__ import variant_folder
from tradewind.edge.ask import LEAST_TIMED, Ask
from tradewind.engine.ort import OrtEngine
from tradewind.errors import UserError

HEAVY = {
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax",
    "transformers",
    "torch",
    "mlflow",
    "dvc",
    "hydra",
    "onnx",
    "onnx_ir",
    "fastapi",
}
ASK = 'from tradewind.edge.answer import Ask, answer; answer(Ask({folder!r}, "q", max_tokens=20), print)'


@pytest.fixture(scope="module")
def variants(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    tiny_variant(folder / "base-int4", "int4")
    return folder


def python(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, input=stdin, env=environment, check=False
    )


def ask(variants: Path, *options: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    where = ("--variants", str(variants), "--variant", "base-int4", "--max-tokens", "20")
    return python("-m", "tradewind.edge", "answer", *where, *options, stdin=stdin)


def test_the_answer_is_the_engines_own_and_says_what_it_cost(variants):
    done = ask(variants, "--json", "--passage", "-", "q", stdin="the array\n")
    figures = json.loads(done.stdout)
    engine = OrtEngine.load(variants / "base-int4", slots=1, max_len=128, threads=1)
    prompt = tiny_tokenizer().chat(conversation("the array", [("q", "")]))
    prefix = engine.prefill(prompt)
    engine.insert(prefix, 0)
    tokens = [int(prefix.logits.argmax())]
    while len(tokens) < figures["tokens"]:
        tokens.append(int(engine.step({0: tokens[-1:]})[0][-1].argmax()))
    assert figures["token_ids"] == tokens and figures["prompt_tokens"] == len(prompt)
    assert figures["finish_reason"] == ("stop" if tokens[-1] in tiny_tokenizer().eos_token_ids else "length")
    assert 0 < figures["peak_rss_bytes"] < figures["cap_bytes"] == 256 << 20
    assert figures["cap"] in ("cgroup v2 memory.max", "a watchdog on VmHWM")
    assert min(figures[name] for name in ("load_ms", "ttft_ms", "tokens_per_s", "cpu_s_per_token")) > 0


def test_text_comes_first_and_one_line_of_figures_after_it(variants):
    done = ask(variants, "q")
    assert done.returncode == 0 and done.stdout.strip().splitlines()[-1].startswith("base-int4: peak ")


def test_the_process_that_answers_imports_nothing_heavy(variants):
    script = ASK.format(folder=str(variants / "base-int4")) + "; import json, sys; print(json.dumps(list(sys.modules)))"
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    modules = {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    assert "onnxruntime" in modules and not modules & HEAVY


def test_a_cap_that_is_too_small_ends_in_one_line(variants):
    done = ask(variants, "--memory-mib", "30", "q")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: the answer needs more than 30 MiB: its process was ended by ")
    assert "larger --memory-mib" in done.stderr and "smaller variant" in done.stderr and done.stderr.count("\n") == 1


def test_a_rate_is_of_enough_tokens_and_measuring_goes_past_the_end(variants, monkeypatch):
    prepare = answer.prepare
    every = frozenset(range(VOCABULARY))
    monkeypatch.setattr(answer, "prepare", lambda folder, ask: replace(prepare(folder, ask), ends=every))
    folder, quiet = str(variants / "base-int4"), list[object]().append
    short = answer.answer(Ask(folder, "q", max_tokens=20), quiet)
    assert (short.tokens, short.finish_reason, short.tokens_per_s, short.cpu_s_per_token) == (1, "stop", None, None)
    on = answer.answer(Ask(folder, "q", max_tokens=LEAST_TIMED, ignore_end=True), quiet)
    assert (on.tokens, on.finish_reason) == (LEAST_TIMED, "length") and on.tokens_per_s and on.cpu_s_per_token
    assert answer.answer(Ask(folder, "q", max_tokens=LEAST_TIMED - 1, ignore_end=True), quiet).tokens_per_s is None


def test_a_variant_of_a_study_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Path("artifacts/studies/s/variants/tiny-int4/manifest.json")
    made.parent.mkdir(parents=True)
    made.touch()
    with pytest.raises(UserError, match=r"'tiny-int4' .*; or --variants artifacts/studies/s/variants"):
        variant_folder("tiny-int4", Path("artifacts/variants"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--variant", "base-int9", "q"), "unknown variant 'base-int9' (choices: base-int4)"),
        (("--memory-mib", "0", "q"), "--memory-mib must be at least 1"),
        (("--passage", "/nowhere/p.txt", "q"), "--passage /nowhere/p.txt: "),
        (("q" * 200,), "the context of base-int4 is 128 tokens: after a prompt of"),
        (("--max-tokens", "0", "q"), "--max-tokens must be at least 1"),
        (("--temperature", "nan", "q"), "--temperature must be a number"),
        (("--seed", "-1", "q"), "--seed must be at least 0"),
        ((" ",), "the question is blank"),
    ],
)
def test_bad_input_is_one_line(variants, options, words):
    done = ask(variants, *options)
    assert done.returncode == 2 and words in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1

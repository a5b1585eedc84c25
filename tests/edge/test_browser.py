"""The page in headless Chromium: it loads, is cut off from the network, and answers as the Python engine does."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.compression.tiny import CONFIG, rules, tiny_flat, tiny_tokenizer
from tests.support import ROOT
from tradewind.compression.export import write_variant
from tradewind.compression.quantize import quantize
from tradewind.corpus.prompt import conversation
from tradewind.edge.chromium import SOFTWARE_GPU, Page, browser, executable
from tradewind.edge.packages import node_packages
from tradewind.engine.detokenize import TextStream
from tradewind.engine.ort import OrtEngine
from tradewind.errors import UserError

VARIANT, MAX_LEN, TOKENS = "base-int4", 400, 40
PASSAGE = "the array is <|im_end|> returned\n  as a copy: naïve 日本, 12345.\n" * 3
"""Two chunks of 128; characters of several bytes; and the text of a special token, which must stay text."""
QUESTION = "Which array?"
STATE = "document.documentElement?.dataset.state"


def part(name: str) -> str:
    return f"document.getElementById('{name}')"


@pytest.fixture(scope="module")
def variants(tmp_path_factory) -> Path:
    """Random int4 weights with products and cache in float32, as the browser has them."""
    folder, config = tmp_path_factory.mktemp("variants"), replace(CONFIG, max_position=512)
    write_variant(
        folder / VARIANT, VARIANT, config, quantize(tiny_flat(config), rules("int4")), tiny_tokenizer(), {}, 0
    )
    return folder


@pytest.fixture(scope="module")
def needs() -> None:
    if executable() is None:
        pytest.skip("Chromium is missing (Debian: apt install chromium)")
    if shutil.which("npm") is None:
        pytest.skip("npm is missing (Debian: apt install npm)")
    try:
        node_packages(ROOT / ".tradewind")
    except UserError as error:
        pytest.skip(f"the page's libraries cannot be installed: {error}")


@contextmanager
def server(variants: Path, *options: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    command = [sys.executable, "-m", "tradewind.edge", "serve", "--port", "0", "--variants", str(variants)]
    command += ["--variant", VARIANT, "--max-len", str(MAX_LEN), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1], process
        finally:
            process.terminate()


def greedy(variants: Path) -> list[int]:
    engine = OrtEngine.load(variants / VARIANT, slots=1, max_len=MAX_LEN, threads=1)
    prompt = tiny_tokenizer().chat(conversation(PASSAGE.strip(), [(QUESTION, "")]))
    assert len(prompt) > 130
    prefix = engine.prefill(prompt)
    engine.insert(prefix, 0)
    tokens = [int(prefix.logits.argmax())]
    while len(tokens) < TOKENS and tokens[-1] not in tiny_tokenizer().eos_token_ids:
        tokens.append(int(engine.step({0: tokens[-1:]})[0][-1].argmax()))
    return tokens


def text_of(tokens: list[int]) -> str:
    tokenizer, stream = tiny_tokenizer(), TextStream()
    special = tokenizer.special_ids
    return "".join(stream.add(b"" if token in special else tokenizer.token_bytes(token)) for token in tokens)


def fill(page: Page, tokens: int = TOKENS) -> None:
    """The form; and `seen`, what the answer's text has been."""
    for name, value in {"passage": PASSAGE, "question": QUESTION, "tokens": tokens}.items():
        page.evaluate(f"{part(name)}.value = {value!r}")
    watch = f"new MutationObserver(() => seen.push({part('answer')}.textContent))"
    page.evaluate(f"globalThis.seen = []; {watch}.observe({part('answer')}, {{childList: true}})")


def answered(page: Page, tokens: int = TOKENS) -> list[int]:
    fill(page, tokens)
    page.evaluate(f"{part('ask')}.click()")
    page.wait(f"{STATE} == 'ready'", 120)
    return [int(token) for token in page.evaluate(f"{part('answer')}.dataset.tokens").split(",")]


def input_event(page: Page, name: str, value: str) -> None:
    page.evaluate(f"{part(name)}.value = {value!r}; {part(name)}.dispatchEvent(new Event('input'))")


def offline(page: Page) -> None:
    page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)


def test_the_page_answers_with_the_network_cut_as_the_engine_does(variants, needs, tmp_path):
    expected = greedy(variants)
    with browser(tmp_path) as open_page, server(variants) as (address, process):
        page = open_page(f"{address}?threads=2")
        page.wait(f"['ready', 'failed'].includes({STATE})")
        assert page.evaluate("crossOriginIsolated") and VARIANT in page.evaluate(f"{part('status')}.textContent")
        page.wait(f"!{part('saved')}.hidden")
        offline(page)
        process.terminate()
        process.wait()
        assert answered(page) == expected
        shown = page.evaluate("seen")
        assert len(set(shown)) > 3 and shown[-1] == text_of(expected)  # it came piece by piece

        page.call("Page.reload")
        page.wait(f"performance.getEntriesByType('navigation')[0].type == 'reload' && {STATE} == 'ready'")
        assert answered(page) == expected
        assert not [url for url in page.requests if not url.startswith(address)] and len(page.requests) > 10


def test_a_new_version_takes_the_place_of_the_kept_one(variants, needs, tmp_path):
    expected = greedy(variants)
    with browser(tmp_path) as open_page:
        with server(variants) as (address, _):
            page = open_page(address)
            page.wait(f"{STATE} == 'ready'")
            page.wait(f"!{part('saved')}.hidden")
        port = address.rstrip("/").rpartition(":")[2]
        with server(variants, "--max-len", "390", "--port", port) as (same, _):
            assert same == address
            page = open_page(address)
            page.wait(f"{STATE} == 'ready'")
            page.wait(f"!{part('saved')}.hidden")
        page.call("Page.reload")
        page.wait(f"performance.getEntriesByType('navigation')[0].type == 'reload' && {STATE} == 'ready'")
        assert "at most 390 tokens" in page.evaluate("document.body.innerText")
        assert answered(page) == expected


def test_the_page_says_what_a_browser_lacks_or_falls_back_and_can_be_stopped(variants, needs, tmp_path):
    with browser(tmp_path) as open_page, server(variants) as (address, _):
        page = open_page("about:blank")
        page.call("Page.addScriptToEvaluateOnNewDocument", source="WebAssembly.validate = () => false")
        page.call("Page.navigate", url=address)
        page.wait(f"{STATE} == 'failed'")
        assert "no SIMD" in page.evaluate(f"{part('problem')}.textContent") and page.evaluate(f"{part('ask')}.disabled")

        page = open_page("about:blank")
        hide = "Object.defineProperty(globalThis, 'crossOriginIsolated', {value: false})"
        page.call("Page.addScriptToEvaluateOnNewDocument", source=hide)
        page.call("Page.navigate", url=address)
        page.wait(f"{STATE} == 'ready'")
        assert "1 thread (page not isolated)" in page.evaluate(f"{part('status')}.textContent")
        fill(page)
        page.evaluate(f"{part('ask')}.click(); {part('stop')}.click()")
        page.wait(f"{STATE} == 'ready'")
        assert (
            "by you" in page.evaluate(f"{part('figures')}.innerText")
            and page.evaluate(f"{part('answer')}.textContent") == ""
        )
        assert answered(page) == greedy(variants)

        page.evaluate(f"{part('passage')}.value = 'word '.repeat(400); {part('ask')}.click()")
        page.wait(f"{STATE} == 'ready'")
        assert "Shorten the documentation" in page.evaluate(f"{part('problem')}.textContent")

        page = open_page(f"{address}?threads=1.5&thread=2&runtime=foo")
        page.wait(f"{STATE} == 'ready'")
        assert "address: threads=1.5, thread=2, runtime=foo" in page.evaluate(f"{part('problem')}.textContent")
        assert ", 1.5 threads" not in page.evaluate(f"{part('status')}.textContent")


def test_the_same_answers_come_from_webgpu_where_it_is_and_else_from_wasm(variants, needs, tmp_path):
    expected = greedy(variants)[:8]
    with server(variants) as (address, _):
        with browser(tmp_path / "with", *SOFTWARE_GPU) as open_page:
            page = open_page(f"{address}?runtime=webgpu")
            page.wait(f"['ready', 'failed'].includes({STATE})")
            assert ", WebGPU," in page.evaluate(f"{part('status')}.textContent")
            assert [answered(page, 8), answered(page, 8)] == [expected, expected]  # nothing is left of the first
        with browser(tmp_path / "without") as open_page:
            page = open_page(f"{address}?runtime=webgpu")
            page.wait(f"{STATE} == 'ready'")
            assert "no WebGPU" in page.evaluate(f"{part('problem')}.textContent")
            assert "WASM" in page.evaluate(f"{part('status')}.textContent")
            assert answered(page, 8) == expected


def test_a_short_answer_has_no_rate_and_measuring_goes_past_its_end(variants, needs, tmp_path):
    expected = greedy(variants)
    file = shutil.copytree(variants / VARIANT, tmp_path / "variants" / VARIANT) / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_ids": [expected[0]]}))
    with browser(tmp_path) as open_page, server(tmp_path / "variants") as (address, _):
        page = open_page(address)
        page.wait(f"{STATE} == 'ready'")
        assert f"at most {MAX_LEN} tokens" in page.evaluate("document.body.innerText")
        assert answered(page) == expected[:1]
        assert "tokens/s" not in page.evaluate(f"{part('figures')}.innerText")
        page.evaluate(f"{part('tokens')}.value = 0; {part('ask')}.click()")
        assert page.evaluate(f"{STATE} == 'ready' && document.querySelector('details').open")  # so that it is seen why
        page.evaluate(f"{part('question')}.value = ' '; {part('ask')}.click()")
        assert page.evaluate(f"{STATE} == 'ready' && !{part('question')}.validity.valid")

        page = open_page(f"{address}?ignore_end")
        page.wait(f"{STATE} == 'ready'")
        assert answered(page) == expected and len(expected) == TOKENS
        assert "tokens/s" in page.evaluate(f"{part('figures')}.innerText")


def test_the_list_of_examples_says_what_stands_in_the_fields(variants, needs, tmp_path):
    row = {"kind": "how", "passage": "p", "question": "q", "answer": "a"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    with browser(tmp_path) as open_page, server(variants, "--corpus", str(tmp_path)) as (address, _):
        page = open_page(address)
        page.wait(f"{STATE} == 'ready'")
        chosen = f"{part('example')}.selectedOptions[0].text"
        assert page.evaluate(chosen) == "q"
        input_event(page, "passage", "my own")
        assert page.evaluate(chosen) == "(your own)"
        input_event(page, "passage", "p")
        assert page.evaluate(chosen) == "q"

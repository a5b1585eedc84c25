"""Constrained devices, really run: one thread under a memory cap, a browser with its network cut, LiteRT.

    python -m studies.compression.edge

1. Each variant answers a question of the test set in a process under the cap; one that does not fit is a row that says so.
2. Headless Chromium loads the page once, and again from what it kept; the server is stopped before it is asked.
3. LiteRT decodes the same integers.
Each rate is of `tokens` tokens after the first: answers go on past their end, as their own are too short to time. Medians of
`repeats`. Chromium or LiteRT missing is an error, for a report without it would be kept.
Results: reports/studies/compression/edge.json. Not covered: phones, WebGPU.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from studies.compression.places import REPORTS, RUNS, STUDY, VARIANTS, plan
from tradewind import host
from tradewind.compression.export_litert import PYTHON, benchmark, export_litert, require
from tradewind.config import run
from tradewind.edge.ask import Ask
from tradewind.edge.capped import CapExceeded, answer_capped
from tradewind.edge.chromium import Page, browser, executable, tabs_peak
from tradewind.errors import UserError
from tradewind.files import read_jsonl, write_json
from tradewind.tracking import Measurement, git_commit, record_run

STATE = "document.documentElement?.dataset.state"
FIGURES = ("load_s", "ttft_s", "decode_tokens_per_s", "peak_rss_bytes")
UNITS = {"load_s": "s", "ttft_s": "s", "decode_tokens_per_s": "token/s", "peak_rss_bytes": "B"}
FORMULAS = {
    "load_s": "from the start of the tokenizer's load, or of the page's navigation with its files kept, to ready; median",
    "ttft_s": "question asked to first token; median",
    "decode_tokens_per_s": "tokens after the first / seconds from the first to the last; median",
    "peak_rss_bytes": "largest VmHWM of the runs; of a browser, of the processes of its tabs",
}
LITERT = {
    "load_s": "from the start to ready, the first step included, which widens the weights; one run",
    "decode_tokens_per_s": "tokens / seconds of their steps; one run",
    "peak_rss_bytes": "VmHWM; one run",
}
IN_LITERT = "LiteRT, 2 threads"
Row = dict[str, Any]


def main() -> None:
    settings = plan()["edge"]
    if executable() is None:
        raise UserError("Chromium is missing (Debian: apt install chromium)")
    require()
    question = longest(settings["characters"])
    rows = [capped(name, question, settings) for name in settings["capped"]]
    rows += [row for name in settings["browser"] for row in in_browser(name, question, settings)]
    rows += [in_litert(name, settings) for name in settings["litert"]]
    with record_run(stage="edge", question=STUDY, params=settings, path=RUNS / f"{STUDY}-edge.json") as made:
        for row in rows:
            for figure in FIGURES:
                if row.get(figure) is not None:
                    name = f"{figure} {row['where']} {row['variant']}".replace(",", "")
                    n, formula = settings["repeats"], FORMULAS[figure]
                    if row["where"] == IN_LITERT:
                        n, formula = 1, LITERT[figure]
                    made.log(Measurement(name, row[figure], UNITS[figure], n, None, formula))
    head = {"device": host.device(), "git_commit": git_commit(), "run_id": made.run_id}
    write_json(REPORTS / "edge.json", {**head, "params": settings, "rows": rows})
    for row in rows:
        print("edge:", row)


def longest(characters: int) -> Mapping[str, Any]:
    """Of the test questions with a passage of at most so many characters, the one whose answer is longest."""
    fitting = [row for row in read_jsonl("artifacts/corpus/test.jsonl") if len(row["passage"]) <= characters]
    return max(fitting, key=lambda row: (len(row["answer"]), row["id"]))


def capped(name: str, question: Mapping[str, Any], settings: Mapping[str, Any]) -> Row:
    ask = Ask(str(VARIANTS / name), question["question"], question["passage"], settings["tokens"] + 1, ignore_end=True)
    row: Row = {"where": f"one thread, {settings['memory_mib']} MiB", "variant": name}
    try:
        made = [answer_capped(ask, settings["memory_mib"], lambda text: None) for _ in range(settings["repeats"])]
    except CapExceeded as error:
        return row | {"note": str(error)}
    return row | {
        "load_s": median(one["load_ms"] for one in made) / 1000,
        "ttft_s": median(one["ttft_ms"] for one in made) / 1000,
        "decode_tokens_per_s": median(one["tokens_per_s"] for one in made),
        "timed_tokens": min(one["tokens"] for one in made) - 1,
        "peak_rss_bytes": max(one["peak_rss_bytes"] for one in made),
        "note": made[0]["cap"],
    }


def in_browser(name: str, question: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[Row]:
    """A row for each number of threads. load_s is of the kept files, from the start of navigation until the page can be
    asked; what the first load took stands in the note."""
    for threads in settings["threads"]:
        with TemporaryDirectory(ignore_cleanup_errors=True) as profile, browser(Path(profile)) as open_page:
            with serving(name) as address:
                page_address = f"{address}?threads={threads}&ignore_end"
                first = loaded(open_page(page_address))
                first.wait("!document.getElementById('saved').hidden")
                fetched = number(first, "pageMs") / 1000
                pages = [loaded(open_page(page_address)) for _ in range(settings["repeats"])]
            load, page = median(number(one, "pageMs") for one in pages) / 1000, pages[-1]
            made = [asked(page, question, settings["tokens"]) for _ in range(settings["repeats"])]
            timed, peak = round(number(page, "tokens")) - 1, tabs_peak(Path(profile))
        yield {
            "where": f"browser, {threads} thread{'s' if threads > 1 else ''}", "variant": name, "load_s": load,
            "ttft_s": median(one[0] for one in made), "decode_tokens_per_s": median(one[1] for one in made),
            "timed_tokens": timed, "peak_rss_bytes": peak,
            "note": f"server stopped before it is asked; first load {fetched:.2f} s",
        }  # fmt: skip


@contextmanager
def serving(name: str) -> Iterator[str]:
    command = [sys.executable, "-m", "tradewind.edge", "serve", "--port", "0"]
    command += ["--variants", str(VARIANTS), "--variant", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def loaded(page: Page) -> Page:
    if page.wait(f"['ready', 'failed'].includes({STATE}) && {STATE}", 180) == "failed":
        raise UserError(f"the page says: {page.evaluate('document.body.innerText')}")
    return page


def asked(page: Page, question: Mapping[str, Any], tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and tokens a second of the `tokens` after it."""
    for field, value in (("passage", question["passage"]), ("question", question["question"]), ("tokens", tokens + 1)):
        page.evaluate(f"document.getElementById('{field}').value = {value!r}")
    page.evaluate("document.getElementById('ask').click()")
    page.wait(f"{STATE} == 'ready'", 120)
    return number(page, "ttftMs") / 1000, number(page, "tokensPerS")


def number(page: Page, name: str) -> float:
    return float(page.evaluate(f"document.documentElement.dataset.{name}"))


def in_litert(name: str, settings: Mapping[str, Any]) -> Row:
    with TemporaryDirectory() as folder:
        model = Path(folder) / f"{name}.tflite"
        export_litert(VARIANTS / name, model, settings["length"], PYTHON)
        found = benchmark(model, settings["tokens"], 2, PYTHON)
    kept = {key: found[key] for key in ("load_s", "decode_tokens_per_s", "peak_rss_bytes")}
    kept["timed_tokens"] = found["tokens"]
    row: Row = {"where": IN_LITERT, "variant": name}
    return row | kept | {"note": f"its file: {found['bytes'] / 1e6:.1f} MB; one process"}


if __name__ == "__main__":
    run(main)

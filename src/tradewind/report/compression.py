"""Notebook 3's sections of the study, from reports/compression.json. A part that is not there is one line with its
command."""

from collections.abc import Callable, Mapping
from typing import Any

from tradewind.evaluation.divergence import ROUNDING
from tradewind.report.compression_goals import goals, rounded
from tradewind.report.compression_models import models, points, strategies
from tradewind.report.markdown import source, source_of_variants, table
from tradewind.report.readme import Reports
from tradewind.report.recommended import used, verdict
from tradewind.report.serving import found, missing
from tradewind.report.summary import in_order

REPORT = "compression"
Rows = Mapping[str, Mapping[str, Any]]


def frontier(data: Any) -> str:
    """Every variant, and the fronts; a variant's last column holds it against its own fp32 weights, and nothing else."""
    rows = []
    for name in in_order(data["variants"]):
        row = data["variants"][name]
        low, high = row["answer_f1_ci"]
        marks = "".join(sign for cost, sign in SIGNS.items() if name in data["fronts"][cost]["variants"])
        rows.append([
            f"{name} {marks}".strip(), f"{row['parameters'] / 1e6:.1f}", f"{row['disk_bytes'] / 1e6:.1f}",
            f"{row['answer_f1']:.3f} [{low:.3f}, {high:.3f}]", f"{100 * share(data, name):.0f}",
            f"{row['bits_per_byte']:.3f}",
            _or_dash(row["kl_to_parent"], "{:.4f}"), _or_dash(row["top1_agreement"], "{:.1f}", 100),
            f"{row['prefill_tokens_per_s']:,.0f}", _rate(row),
            f"{row['decode_cpu_ms_per_token']:.1f}", f"{row['load_s']:.2f}", f"{row['peak_rss_bytes'] / 1e6:,.0f}",
            "-" if row["recommended"] is None else verdict(used(row)),
        ])  # fmt: skip
    head = [
        "variant", "M params", "MB on disk", "answer F1 [95 %]", "% of the teacher's", "bits/byte", "KL to fp32", "top-1 %",
        "prefill tok/s", "decode tok/s [95 %]", "CPU ms/token", "load s", "peak RSS MB", "bounds, to its own fp32",
    ]  # fmt: skip
    return f"{table(head, rows)}\n{_fronts(data)}{source_of_variants(data)}"


def _rate(row: Mapping[str, Any]) -> str:
    low, high = row["decode_tokens_per_s_ci"]
    return f"{row['decode_tokens_per_s']:,.0f} [{low:,.0f}, {high:,.0f}]"


SIGNS = {"disk_bytes": "▪", "decode_tokens_per_s": "▸", "peak_rss_bytes": "▫"}
WORDS = {"disk_bytes": "size on disk", "decode_tokens_per_s": "decode speed", "peak_rss_bytes": "memory"}
READ = (
    "\nA front is of all variants: F1 alone decides. Its knee may be outside the bounds to its own fp32 weights; the last "
    "column is the knee of the front of those within, fp32 included."
)
SURE = " **<**: F1 is higher than the left neighbour's for certain (paired by question, each at 95 %); a comma: not."


def _fronts(data: Any) -> str:
    """Members from the cheapest to the best, and where the step between two is more than chance."""
    rows = []
    for cost, sign in SIGNS.items():
        one = data["fronts"][cost]
        names = sorted(one["variants"], key=lambda name: data["variants"][name]["answer_f1"])
        sure = {name for name, step in one.get("steps", {}).items() if step["interval"][0] > 0}
        chain = names[0] + "".join((" **<** " if name in sure else ", ") + name for name in names[1:])
        rows.append([f"{sign} {WORDS[cost]}", chain, one["knee"] or "none", one.get("knee_within", "-") or "none"])
    told = READ + (SURE if any("steps" in one for one in data["fronts"].values()) else "")
    return table(["front", "members, cheapest first", "knee", "knee of those within bounds"], rows) + told + "\n"


def methods(data: Any) -> str:
    """How much of plain rounding's KL each other method takes away, by model and precision."""
    rows = []
    for name in in_order(data["variants"]):
        row = data["variants"][name]
        plain = data["variants"].get(rounded(name))
        if row["precision"] in ("int4", "mixed") and plain:
            less = 1 - row["kl_to_parent"] / plain["kl_to_parent"]
            low, high = row["kl_to_parent_ci"]
            lost = row["f1_to_parent"]
            rows.append([
                name, f"{row['kl_to_parent']:.4f} [{low:.4f}, {high:.4f}]", "-" if row is plain else f"{100 * less:.0f} %",
                f"{100 * row['top1_agreement']:.1f}",
                points(lost),
            ])  # fmt: skip
    head = ["variant", "KL to its fp32 weights [95 %]", "less than rounding", "top-1 %", "F1 to fp32, points [95 %]"]
    return table(head, rows) + source_of_variants(data)


def sensitivity(data: Any) -> str:
    """What rounding one kind of matrix alone to int4 costs, and per megabyte that it saves over int8."""
    part = data["sensitivity"]
    rows = []
    for kind, row in sorted(part["kinds"].items(), key=lambda item: -item[1]["kl_all"]):
        saved = row["parameters"] / 2e6  # four bits fewer a weight
        rows.append([kind, f"{saved:.1f}", f"{row['kl_answers']:.4f}", f"{row['kl_all']:.4f}",
                     f"{100 * row['top1_all']:.1f}", f"{row['kl_all'] / saved:.4f}"])  # fmt: skip
    head = ["int4 in", "MB saved over int8", "KL, answers", "KL, all tokens", "top-1 %, all tokens", "KL per MB saved"]
    text = part["text"]
    return table(head, rows) + f"\n{text['tokens']:,} tokens of `{text['source']}`.\n" + source(part)


def runtimes(data: Any) -> str:
    """The same integers in every runtime, beside JAX in float32."""
    rows, facts = [], []
    for one in data["runtimes"]["variants"]:
        same = ", ".join(f"{name}: {count} differ" for name, count in one["integers"].items())
        facts.append(f"{one['variant']}: {one['prompts']} prompts, {one['positions']} positions; tensors in {same}")
        for name, row in one["runtimes"].items():
            if "missing" in row:
                rows.append([one["variant"], name, *["-"] * 4, row["missing"]])
            else:
                rows.append([one["variant"], name, f"{row['max']:.2g}", f"{row['mean']:.2g}", f"{100 * row['top1']:.1f}",
                             _kl(row["kl"]), f"{100 * row['same_answers']:.0f} %"])  # fmt: skip
    head = ["variant", "runtime", "largest difference", "mean", "top-1 %", "KL", "same answers"]
    return f"{table(head, rows)}\n{COLUMNS} {'. '.join(facts)}.\n{source(data['runtimes'])}"


COLUMNS = (
    "All against JAX in float32. Largest difference and mean: of log-probabilities, in nats, over positions and vocabulary; "
    "top-1: positions with the same likeliest token; KL: nats, mean over positions; same answers: prompts whose whole greedy "
    "answer is the same."
)


def _kl(value: float) -> str:
    return f"{value:.2g}" if value > ROUNDING else f"<{ROUNDING:.0e}"


def edge(data: Any) -> str:
    """Constrained devices: a process under a memory cap, a browser tab, LiteRT."""
    rows = [[one["where"], one["variant"], _or_dash(one.get("load_s"), "{:.2f}"), _or_dash(one.get("ttft_s"), "{:.2f}"),
             _or_dash(one.get("decode_tokens_per_s"), "{:.0f}"), _or_dash(one.get("timed_tokens"), "{:.0f}"),
             _or_dash(one.get("peak_rss_bytes"), "{:,.0f}", 2**-20), one.get("note", "")]
            for one in data["edge"]["rows"]]  # fmt: skip
    head = ["where", "variant", "load, s", "first token, s", "tokens/s", "of tokens", "peak RSS, MiB", ""]
    return (
        table(head, rows)
        + "\nRates are of so many tokens after the first, past the answer's own end. "
        + f"Medians of {data['edge']['params']['repeats']}, peaks the highest of them; LiteRT once.\n"
        + source(data["edge"])
    )


def share(data: Any, name: str) -> float:
    """Of the teacher's F1."""
    value: float = data["variants"][name]["answer_f1"] / data["variants"]["teacher-fp32"]["answer_f1"]
    return value


def _or_dash(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else form.format(value * scale)


def _section(shown: Callable[[Any], str], part: str = "variants") -> Callable[[Reports], str]:
    def text(reports: Reports) -> str:
        data = found(reports, REPORT)
        return missing(REPORT) if data is None or part not in data else shown(data)

    return text


SECTIONS: dict[str, Callable[[Reports], str]] = {
    "compression_frontier": _section(frontier),
    "compression_methods": _section(methods),
    "compression_models": _section(models),
    "compression_strategies": _section(strategies, "strategies"),
    "compression_sensitivity": _section(sensitivity, "sensitivity"),
    "compression_runtimes": _section(runtimes, "runtimes"),
    "compression_edge": _section(edge, "edge"),
    "compression_goals": _section(goals),
}

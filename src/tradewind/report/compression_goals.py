"""What compression was to reach, beside what was measured. A goal names the recipe of its figure."""

from collections.abc import Iterator
from typing import Any

from tradewind.report.goals import Goal
from tradewind.report.markdown import source_of_variants, table
from tradewind.report.recommended import deciding, used

INT4, MIXED = ("int4-qat", "int4-pure-qat"), ("mixed-qat",)
"""Recipes of a size class; each that was measured has its rows."""
MODELS = (("tiny", 15.0, 17.0, 0.80), ("student", 32.0, 44.0, 0.95))
"""Model, MB on disk in int4 and mixed, share of the teacher's F1."""
SPEEDUP, RECOVERED, FIRST_TOKEN_S, BROWSER_RATE, CAP_MIB = 6.0, 0.5, 3.0, 15.0, 256


def goals(data: Any) -> str:
    rows = [*_models(data), *_speed(data), *_recovered(data), *_edge(data)]
    return table(
        ["goal", "measured", "reached"], [[one.words, one.told, one.reached] for one in rows]
    ) + source_of_variants(data)


def _models(data: Any) -> Iterator[Goal]:
    rows = data["variants"]
    whole = rows["teacher-fp32"]["answer_f1"]
    for model, int4_mb, mixed_mb, least in MODELS:
        for recipes, limit in ((INT4, int4_mb), (MIXED, mixed_mb)):
            for name in (f"{model}-{recipe}" for recipe in recipes if f"{model}-{recipe}" in rows):
                size = rows[name]["disk_bytes"] / 1e6
                yield Goal(f"{model}: at most {limit:g} MB", f"{name}: {size:.1f} MB", [{"value": size}], limit)
                value, beside = rows[name]["answer_f1"], rows[name]["f1_to_teacher"]["interval"]
                low, high = (1 + bound / whole for bound in beside)  # paired by question
                one = {"value": value / whole, "interval": [low, high]}
                told = f"{name}: {100 * value / whole:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
                yield Goal(f"{model}: at least {100 * least:.0f} % of the teacher's F1", told, [one], least, least=True)


def _speed(data: Any) -> Iterator[Goal]:
    rows = data["variants"]
    if (name := "tiny-int4-qat") in rows and "base-int4" in rows:
        ratio = rows[name]["decode_tokens_per_s"] / rows["base-int4"]["decode_tokens_per_s"]
        (slow, fast), (least, most) = (rows[one]["decode_tokens_per_s_ci"] for one in (name, "base-int4"))
        one = {"value": ratio, "interval": [slow / most, fast / least]}
        words = f"tiny in int4 decodes at least {SPEEDUP:g} times as fast as the base in int4"
        told = f"{name}: {ratio:.1f} times [{slow / most:.1f}, {fast / least:.1f}]"
        yield Goal(f"{words}, on two threads", told, [one], SPEEDUP, least=True)
    alone = {one["variant"]: one.get("decode_tokens_per_s") for one in _capped(data)}
    if alone.get("tiny-int4-qat") and alone.get("base-int4"):
        ratio = alone["tiny-int4-qat"] / alone["base-int4"]
        yield Goal(f"{words}, on one", f"tiny-int4-qat: {ratio:.1f} times", [{"value": ratio}], SPEEDUP, least=True)


def _recovered(data: Any) -> Iterator[Goal]:
    rows = data["variants"]
    for name, row in rows.items():
        plain = rows.get(rounded(name))
        if name.endswith("-qat") and plain:
            less = 1 - row["kl_to_parent"] / plain["kl_to_parent"]
            told = f"{100 * less:.0f} %: KL {plain['kl_to_parent']:.4f} to {row['kl_to_parent']:.4f}"
            words = f"{name}: at least {100 * RECOVERED:.0f} % of rounding's KL recovered"
            yield Goal(words, told, [{"value": less}], RECOVERED, least=True)
            told = "; ".join(row["faults"]) or "all kept"
            yield Goal(f"{name}: within the bounds of 4 bits", told, deciding(used(row)), 1.0)


def _capped(data: Any) -> list[Any]:
    rows = data.get("edge", {}).get("rows", ())
    return [one for one in rows if one["where"].startswith("one thread")]


def _edge(data: Any) -> Iterator[Goal]:
    """A browser's goal is of a kept load and the first token together. What did not fit has no figures; under another cap
    than the goal's, the goal was not measured."""
    cap = data.get("edge", {}).get("params", {}).get("memory_mib", CAP_MIB)
    for one in data.get("edge", {}).get("rows", ()):
        held = one.get("decode_tokens_per_s")
        if one["where"].startswith("browser") and held is not None:
            first = one["load_s"] + one["ttft_s"]
            words = f"{one['where']}: first token within {FIRST_TOKEN_S:g} s of a cached load"
            told = f"{one['variant']}: {one['load_s']:.2f} + {one['ttft_s']:.2f} s"
            yield Goal(words, told, [{"value": first}], FIRST_TOKEN_S)
            words = f"{one['where']}: at least {BROWSER_RATE:g} tokens/s"
            yield Goal(words, f"{one['variant']}: {held:.0f}", [{"value": held}], BROWSER_RATE, least=True)
    for one in _capped(data):
        peak = one.get("peak_rss_bytes")
        told = f"{one['variant']}: peak {peak / 2**20:.0f} MiB" if peak else f"{one['variant']}: does not fit"
        yield Goal(f"answers under {cap} MiB", told, [{"value": peak}], cap * 2**20 if cap == CAP_MIB else None)


def rounded(name: str) -> str:
    """The variant of the same rules that is merely rounded: `student-int4-qat` -> `student-int4`."""
    return name.removesuffix("-qat").removesuffix("-gptq").removesuffix("-awq")

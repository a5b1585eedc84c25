import pytest

from tradewind.report.gate import GateRules, decide

RULES = GateRules(max_kl=0.01, max_f1_loss=0.01, within_best=0.02, beat_baselines=True)
PARENTS = {"base-fp32": None, "teacher-fp32": None, "teacher-int8": "teacher-fp32", "student-int8": "student-fp32"}


def row(f1: float, speed: float, kl: float | None = None) -> dict:
    return {"answer_f1": f1, "decode_tokens_per_s": speed, "kl_to_parent": kl}


def variants(**changes) -> dict:
    rows = {"base-fp32": row(0.2, 400), "teacher-fp32": row(0.8, 40), "teacher-int8": row(0.798, 150, 0.006)}
    return rows | {"student-int8": row(0.5, 300, 0.007)} | {name.replace("_", "-"): r for name, r in changes.items()}


def champion(rows, against=None, baselines=None, rules=RULES):
    against = {"teacher-int8": -0.002, "student-int8": 0.0} | (against or {})
    return decide(rows, PARENTS, against, baselines or {"base-fp32": 0.2}, rules)


def test_the_fastest_of_those_that_are_good_enough_wins():
    decision = champion(variants())
    assert decision.champion == "teacher-int8"
    assert decision.reasons["teacher-int8"] == []
    assert decision.reasons["base-fp32"] == ["not fine-tuned"]
    assert "slower" in decision.reasons["teacher-fp32"][0]
    assert "below the best" in decision.reasons["student-int8"][0]


@pytest.mark.parametrize(
    ("rows", "against", "word"),
    [(variants(teacher_int8=row(0.8, 150, 0.0101)), {}, "KL"), (variants(), {"teacher-int8": -0.011}, "loses")],
)
def test_a_lossy_variant_is_passed_over_with_its_reason(rows, against, word):
    decision = champion(rows, against)
    assert decision.champion == "teacher-fp32"
    assert word in decision.reasons["teacher-int8"][0]


def test_bounds_are_inclusive():
    assert champion(variants(teacher_int8=row(0.79, 150, 0.01)), {"teacher-int8": -0.01}).champion == "teacher-int8"


def test_nothing_above_the_baselines_leaves_no_champion_unless_the_rule_is_off():
    decision = champion(variants(), baselines={"base-3-shot": 0.9})
    assert decision.champion is None
    assert all("base-3-shot" in " ".join(why) for name, why in decision.reasons.items() if name != "base-fp32")
    assert (
        champion(variants(), baselines={"b": 0.9}, rules=GateRules(0.01, 0.01, 0.02, False)).champion == "teacher-int8"
    )

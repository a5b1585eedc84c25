import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradewind.report.frontier import front, knee
from tradewind.report.recommended import faults, used, verdict

ROWS = st.lists(
    st.builds(
        lambda f1, cost: {"answer_f1": f1, "cost": cost},
        st.integers(0, 9).map(lambda n: n / 10),
        st.integers(1, 9).map(float),
    ),
    min_size=1,
    max_size=12,
)


@given(ROWS, st.booleans())
def test_the_front_is_what_nothing_else_dominates(rows, more_is_better):
    sign = -1 if more_is_better else 1

    def dominated(row) -> bool:
        return any(
            other["answer_f1"] >= row["answer_f1"]
            and sign * other["cost"] <= sign * row["cost"]
            and (other["answer_f1"], other["cost"]) != (row["answer_f1"], row["cost"])
            for other in rows
        )

    kept = {(r["answer_f1"], r["cost"]) for r in front(rows, "cost", more_is_better)}
    assert kept == {(r["answer_f1"], r["cost"]) for r in rows if not dominated(r)}


def row(cost: float, f1: float) -> dict[str, float]:
    return {"cost": cost, "answer_f1": f1}


def test_the_knee_is_where_the_rise_ends():
    edge = [row(10, 0.1), row(20, 0.6), row(40, 0.7), row(80, 0.72)]
    assert knee(edge, "cost") == row(20, 0.6)


@given(st.floats(1.5, 100), st.floats(1.5, 100))
def test_the_knee_does_not_depend_on_the_unit_of_cost(ratio, unit):
    edge = [row(1, 0.2), row(ratio, 0.8), row(ratio**2, 0.9)]
    scaled = [row(unit * r["cost"], r["answer_f1"]) for r in edge]
    assert knee(scaled, "cost")["answer_f1"] == knee(edge, "cost")["answer_f1"] == 0.8


def test_a_straight_or_short_front_has_no_knee():
    assert knee([row(1, 0.1), row(10, 0.5)], "cost") is None
    assert knee([row(1, 0.1), row(10, 0.3), row(100, 0.5)], "cost") is None


@pytest.mark.parametrize(
    ("precision", "kl", "top1", "loss", "count"),
    [
        ("fp32", 9.0, 0.0, 1.0, 0),
        ("int8", 0.01, 0.94, 0.5, 0),
        ("int8", 0.011, 0.93, 0.0, 2),
        ("int4", 0.10, 0.85, 0.03, 0),
        ("mixed", 0.11, 0.84, 0.04, 3),
    ],
)
def test_bounds_are_by_precision_and_each_breach_is_told(precision, kl, top1, loss, count):
    assert len(faults(used(distances(precision, kl, top1, loss)))) == count


def distances(precision, kl, top1, loss, wide=0.0):
    spread = lambda value: [value * (1 - wide), value * (1 + wide)]  # noqa: E731
    return {
        "precision": precision, "kl_to_parent": kl, "kl_to_parent_ci": spread(kl), "top1_agreement": top1,
        "top1_agreement_ci": spread(top1), "f1_to_parent": {"value": -loss, "interval": spread(-loss)[::-1]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kl", "loss", "wide", "said"),
    [
        (0.05, 0.01, 0.01, "within"),
        (0.05, 0.029, 0.1, "within, not for certain"),
        (0.05, 0.031, 0.1, "F1 3.1 points lower (at most 3), not for certain"),
        (0.20, 0.029, 0.1, "KL 0.2000 (at most 0.1)"),  # one bound is broken for certain, whatever of the other
    ],
)
def test_a_bound_within_a_figures_interval_is_not_decided(kl, loss, wide, said):
    assert verdict(used(distances("int4", kl, 0.95, loss, wide))) == said

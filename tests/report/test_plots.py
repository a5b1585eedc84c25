from hypothesis import given
from hypothesis import strategies as st

from tradewind.report.plots import front

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

"""The sweep's errors, from rows that are given."""

import pytest

from studies.caching.sweep import BASE, CHANGED, errors


def test_a_run_that_stands_in_several_rows_counts_once() -> None:
    def row(run: str, predicted: float) -> dict[str, object]:
        phase = {"measured": 0.5, "predicted": predicted}
        return {"run_id": run, "cold": phase, "warm": {"measured": 0.5, "predicted": 0.5}}

    found = errors([row("base", 0.4), row("base", 0.4), row("other", 0.53), row("third", 0.52)])
    assert found["cold"] == {"median": pytest.approx(0.03), "largest": pytest.approx(0.1), "n": 3}
    assert found["warm"]["largest"] == 0


def test_each_setting_is_changed_from_the_base() -> None:
    assert all(getattr(BASE, name) in values for name, (_, values) in CHANGED.items())

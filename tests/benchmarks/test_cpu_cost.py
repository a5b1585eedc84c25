"""The account of processor time over the mock engine: every part is seen, and shares are of the engine's."""

import pytest

from benchmarks.cpu_cost import line, serving, spend, summarize
from tradewind.errors import UserError
from tradewind.serving.settings import ServeSettings


def test_every_part_is_seen():
    with serving(ServeSettings(engine="mock", max_len=512)) as (name, port, clocks):
        seen = [spend(name, port, clocks, 2, 8, seed) for seed in range(2)]
        with pytest.raises(UserError, match="did not answer"):
            spend(name, port, clocks, 1, 5000, 0)
    assert all(part > 0 for one in seen for part in one)


def test_shares_are_of_the_engines_time():
    row = summarize([(10.0, 0.2, 0.4), (20.0, 0.4, 0.8), (5.0, 0.1, 0.2)], threads=2)
    assert row["own_share"]["median"] == pytest.approx(0.02)
    assert row["added_share"]["median"] == pytest.approx(0.04)
    assert row["added_ms"]["median"] == pytest.approx(0.6)
    assert "added 4.0 %" in line("1 streams of 64", row)

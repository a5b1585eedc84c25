"""The estimate of a wait, by hand."""

import pytest

from tradewind.engine.admission import Ahead, Load


def load() -> Load:
    """1,000 prompt tokens a second, 10 ms a step, an answer keeps its slot for 2 s."""
    made = Load(slots=4, chunk=100)
    made.prefilled(500, 0.5)
    made.stepped(0.01)
    made.held(2.0)
    return made


@pytest.mark.parametrize(
    ("ahead", "seconds"),
    [
        (Ahead(0, 0, 4, False), 0),
        (Ahead(250, 1, 4, False), 0.25),
        (Ahead(250, 1, 3, True), 0.25 + 3 * 0.01),
        (Ahead(0, 0, 0, True), 2.0 / 4),
        (Ahead(100, 2, 1, True), 0.1 + 0.01 + 2 * 2.0 / 4),
    ],
)
def test_the_formula(ahead: Ahead, seconds: float) -> None:
    assert load().wait(ahead) == pytest.approx(seconds)


def test_nothing_observed_is_no_wait() -> None:
    assert Load(4, 100).wait(Ahead(10_000, 50, 0, True)) == 0
    assert Load(4, 100).prefill_rate is None


def test_what_is_cached_is_not_waited_for() -> None:
    made = load()
    made.found(0, 100)
    assert made.wait(Ahead(250, 1, 4, False)) == pytest.approx(0.25)
    for _ in range(100):
        made.found(90, 100)
    assert made.wait(Ahead(1000, 1, 4, False)) == pytest.approx(0.1, rel=0.01)


def test_the_rate_is_one_of_sums() -> None:
    """A hundred tiny slow chunks among long fast ones: the rate is that of the tokens, not of the chunks."""
    made = load()
    for _ in range(100):
        made.prefilled(1000, 1.0)
        made.prefilled(1, 0.05)
    assert made.prefill_rate == pytest.approx(1001 / 1.05, rel=0.01)


def test_averages_follow_slowly() -> None:
    made = load()
    made.stepped(0.11)
    made.held(12.0)
    assert (made.step, made.hold) == (pytest.approx(0.02), pytest.approx(3.0))

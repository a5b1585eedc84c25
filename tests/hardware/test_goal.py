"""Goals, loads and budgets read from short words."""

import pytest

from tradewind.errors import UserError
from tradewind.hardware.goal import Budget, Demand, Wanted, read_words


def test_words_become_what_is_wanted():
    assert read_words(Wanted, "ttft_p95_ms=300, f1=0.7", "--slo") == Wanted(300.0, f1=0.7)
    assert read_words(Budget, "", "--budget") == Budget()
    assert read_words(Demand, "users=50,think_s=20", "--load").per_s == 2.5
    assert read_words(Demand, "rate=0.5,spread=0.4", "--load").lengths.spread == 0.4
    shared = read_words(Demand, "rate=1,prompt=99,shared=29", "--load")
    assert (shared.lengths.prompt, shared.longest) == (70, 159)


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        (Wanted, "ttft=300", "ttft"),
        (Wanted, "f1", "'f1' is not NAME=NUMBER"),
        (Wanted, "f1=good", "f1=good is not a number"),
        (Budget, "usd_hour=inf", "not a finite number"),
        (Demand, "prompt=100", "either rate"),
        (Demand, "rate=1,users=2", "either rate"),
        (Demand, "rate=-1", "must not be negative"),
        (Demand, "users=50,think_s=0", "think_s above 0"),
        (Demand, "rate=1,prompt=20,shared=20", "part of its prompt"),
        (Wanted, "ttft_p95_ms=0", "above 0"),
        (Budget, "gb=0", "above 0"),
    ],
)
def test_other_words_are_refused_by_name(kind, text, words):
    with pytest.raises(UserError, match=words):
        read_words(kind, text, "--x")

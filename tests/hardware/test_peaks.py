"""Rates found again in seconds that were made of them, and the chains themselves once."""

import itertools

import pytest

from tradewind.hardware import peaks_jax, peaks_ort
from tradewind.hardware.peaks import GRID, HIDDEN, IN_A_ROW, MLP, ROWS, TOKENS, Peaks, between, read_peaks, turns

DISPATCH, STARTS = 2e-5, {"product": 3e-6, "attention": 2e-5, "norm": 5e-6, "activation": 4e-6}


def test_rates_are_found_in_seconds_made_of_them():
    bandwidth, flops, caches = 2e10, 3e11, 1e9
    nodes = peaks_ort.NODES
    sizes = {("launch", kind): (nodes, 0) for kind in STARTS}
    seconds = {("launch", kind): DISPATCH + nodes * start for kind, start in STARTS.items()}
    seconds["dispatch", 0] = DISPATCH
    for dtype in peaks_ort.DTYPES:
        for rows, lengths in GRID.items():
            for pairs in lengths:
                sizes[dtype, (rows, pairs)] = (2 * pairs, 10**6 * pairs)
                starts = DISPATCH + 2 * pairs * STARTS["product"]
                taken = (
                    1e6 * pairs / bandwidth if rows == 1 else 4 * rows * pairs * HIDDEN * MLP / (flops * rows / ROWS)
                )
                seconds[dtype, (rows, pairs)] = starts + taken
    for dtype, width in (("float32", 4), ("int8", 1)):
        name = f"attention.{dtype}"
        seconds |= {(name, (1, 1)): 1e-3, (name, (1, 0)): 1e-3}
        seconds[name, (1, 1024)] = 1e-3 + 2 * 3 * 64 * width * 1023 * nodes / caches
        for tokens in TOKENS:
            seconds[name, (tokens, 0)] = 1e-3 + 4 * 9 * 64 * tokens * (tokens + 1) / 2 * nodes / 1e10
    sizes["elementwise", ROWS] = (nodes, 0)
    seconds["elementwise", ROWS] = DISPATCH + nodes * (STARTS["norm"] + 16 * ROWS * HIDDEN / 5e10)
    found = peaks_ort.rates(seconds, sizes)
    assert found.flops == pytest.approx(dict.fromkeys(peaks_ort.DTYPES, flops)
                                        | dict.fromkeys(("attention.float32", "attention.int8"), 1e10))  # fmt: skip
    assert found.bandwidth == pytest.approx(dict.fromkeys(peaks_ort.DTYPES, bandwidth)
                                            | dict.fromkeys(("attention.float32", "attention.int8"), caches)
                                            | {"elementwise": 5e10})  # fmt: skip
    for rows, points in found.at_rows["int4"][1:]:
        assert points == [(10**6 * pairs, pytest.approx(flops * rows / ROWS)) for pairs in GRID[rows]]
    decoding, *prompts = found.at_rows["attention.int8"]
    assert decoding == (1, [(1.0, pytest.approx(4 * 9 * 64 * caches / (2 * 3 * 64)))])
    assert prompts == [(tokens, [(1.0, pytest.approx(1e10))]) for tokens in TOKENS]
    assert found.launch == pytest.approx((5 * 3e-6 + 2e-5 + 2 * 5e-6 + 2 * 4e-6) / 10)
    assert found.dispatch == DISPATCH


def test_calls_take_turns_and_the_first_half_of_a_turn_does_not_count():
    warm = itertools.cycle([9.0] * (IN_A_ROW // 2) + [1.0] * (IN_A_ROW - IN_A_ROW // 2))
    order = []

    def call(name):
        order.append(name)
        return next(warm)

    assert turns({name: lambda name=name: call(name) for name in "ab"}, 2) == {"a": 1.0, "b": 1.0}
    assert "".join(order) == ("a" * IN_A_ROW + "b" * IN_A_ROW) * 2


def test_a_machine_of_peaks_reads_what_it_does_not_know_at_the_slowest_rate():
    peaks = Peaks({"float32": 1e9}, {"float32": 5.0, "int8": 3.0}, 1e-6, 2e-6, (10, 4))
    machine = peaks.machine("here", 1e9)
    assert machine.reads("int8") == machine.reads("int4") == 3.0
    assert read_peaks({**vars(peaks), "kernels": [10, 4]}) == peaks


@pytest.mark.parametrize("kind", peaks_ort.SMALLEST)
def test_chains_of_small_operators_run(tmp_path, kind):
    chain = peaks_ort.SMALLEST[kind](tmp_path, 1)
    assert chain.run() > 0 and chain.nodes == peaks_ort.NODES


def test_what_jax_measures_are_plausible_peaks(monkeypatch):
    monkeypatch.setattr(peaks_jax, "NODES", 4)
    monkeypatch.setattr(peaks_jax, "GRID", {1: (1, 2), 4: (1,)})
    found = peaks_jax.measure(1)
    assert set(found.flops) == {"float32", "attention.float32", "attention.int8"}
    assert [rows for rows, _ in found.at_rows["float32"]] == [1, 4]
    assert all(rate > 1e6 for rate in (*found.flops.values(), *found.bandwidth.values()))


def test_peaks_of_two_times_meet_in_the_middle():
    first = Peaks({"int8": 1e9}, {"int8": 4.0}, 1e-6, 4e-6, (10, 4), {"int8": [(1, [(5.0, 1e9), (9.0, 4e9)])]})
    second = Peaks({"int8": 4e9}, {"int8": 1.0}, 4e-6, 1e-6, (10, 4), {"int8": [(1, [(5.0, 9e9), (9.0, 4e9)])]})
    both = Peaks({"int8": 2e9}, {"int8": 2.0}, 2e-6, 2e-6, (10, 4), {"int8": [(1, [(5.0, 3e9), (9.0, 4e9)])]})
    made = between(first, second)
    assert made.flops == pytest.approx(both.flops) and made.bandwidth == pytest.approx(both.bandwidth)
    assert (made.launch, made.dispatch) == (pytest.approx(2e-6), pytest.approx(2e-6))
    assert made.at_rows["int8"][0][1] == [(5.0, pytest.approx(3e9)), (9.0, pytest.approx(4e9))]

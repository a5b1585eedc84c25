"""Compiling for chips that are not here: what is asked, what is refused, and the compiler itself where it is installed."""

import pytest

from tests.support import ROOT
from tradewind.errors import UserError
from tradewind.hardware.compile_worker import collectives, cost
from tradewind.hardware.compiled import PYTHON, Program, ask, compile_for, table, topology
from tradewind.hardware.roofline import Storage, cache_bytes, weight_bytes
from tradewind.model.config import DecoderConfig

SHAPE = DecoderConfig(512, 64, 2, 4, 2, 16, 128)


def test_what_cannot_be_compiled_for_is_named():
    with pytest.raises(UserError, match=r"'h100' cannot be compiled for here \(choices: tpu_v5e, tpu_v6e\)"):
        topology("h100", 1)
    with pytest.raises(UserError, match="tpu_v5e comes in 1, 4, 8, 16, 32, 64 chips here, not in 3"):
        topology("tpu_v5e", 3)
    with pytest.raises(UserError, match="unknown program 'serve'"):
        Program("serve", 1, 1)
    with pytest.raises(UserError, match="make tpu"):
        ask({}, ROOT / "no-such-python")


def test_groups_that_do_not_divide_the_chips_are_refused():
    with pytest.raises(UserError, match="4 chips cannot be split into groups of 3"):
        compile_for("tpu_v5e", 4, Program("decode", 1, 8, tensor=3), SHAPE)


def test_collectives_are_counted_once_each():
    hlo = """
      %all-reduce.1 = f32[8]{0} all-reduce(f32[8]{0} %x), replica_groups={{0,1}}
      %ag-start = (bf16[4]{0}, bf16[8]{0}) all-gather-start(bf16[4]{0} %y), dimensions={0}
      %ag-done = bf16[8]{0} all-gather-done((bf16[4]{0}, bf16[8]{0}) %ag-start)
      ROOT %sum = f32[8]{0} add(f32[8]{0} %all-reduce.1, f32[8]{0} %all-reduce.1)
    """
    assert collectives(hlo) == {"all-reduce": 1, "all-gather": 1}


def test_an_estimate_of_negative_seconds_is_dropped():
    class Compiled:
        def cost_analysis(self):
            return {"flops": 5.0, "optimal_seconds": -0.99}

    assert cost(Compiled()) == {"flops": 5.0}


def test_the_table_says_what_does_not_fit():
    fits = {"device": "tpu_v5e", "chips": 4, "program": "train", "rows": 8, "length": 512, "fits": True,
            "memory": {"peak": 3e6, "argument": 1e6, "temp": 2e6}, "collectives": {"all-reduce": 2}}  # fmt: skip
    rows = [fits, {**fits, "fits": False, "needs": "17 GB of 16 GB"}]
    assert table(rows).splitlines()[2:] == [
        "| tpu_v5e | 4 | train | 8 | 512 | 3 | 1 | 2 | 2 all-reduce |",
        "| tpu_v5e | 4 | train | 8 | 512 | does not fit | | | 17 GB of 16 GB |",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.is_file(), reason="no .venv-tpu: make tpu")
def test_a_decode_step_compiled_for_a_tpu_holds_its_weights_and_cache():
    program, kept = Program("decode", rows=4, length=128), Storage("bf16", {"other": 16}, {"other": "bfloat16"}, 16)
    one = compile_for("tpu_v5e", 1, program, SHAPE)
    held = weight_bytes(SHAPE, kept) + 4 * cache_bytes(SHAPE, kept, 128)
    assert one["fits"] and not one["collectives"]
    assert held <= one["memory"]["argument"] <= 2 * held  # padded to the chip's tiles
    four = compile_for("tpu_v6e", 4, Program("decode", rows=4, length=128, tensor=2), SHAPE)
    assert four["collectives"]


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.is_file(), reason="no .venv-tpu: make tpu")
def test_what_does_not_fit_is_found_before_a_pod_is_rented():
    wide = DecoderConfig(49152, 576, 30, 9, 3, 64, 1536)
    answer = compile_for("tpu_v5e", 1, Program("train", rows=256, length=2048), wide)
    assert not answer["fits"]
    assert "memory" in answer["needs"]

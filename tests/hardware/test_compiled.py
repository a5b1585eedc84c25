"""Compiling for chips that are not here: what is asked, what is refused, and the compiler itself where it is installed."""

import pytest

from tests.support import ROOT
from tradewind.errors import UserError
from tradewind.hardware.compile_worker import collectives, cost
from tradewind.hardware.compiled import COMPILERS, Program, ask, compile_for, table, target, topology
from tradewind.hardware.device import load_device
from tradewind.hardware.roofline import Storage, cache_bytes, weight_bytes
from tradewind.model.config import DecoderConfig

SHAPE = DecoderConfig(512, 64, 2, 4, 2, 16, 128)


def test_what_cannot_be_compiled_for_is_named():
    with pytest.raises(UserError, match=r"'mi300x' cannot be compiled for here \(choices: a100, h100, h200, l4, "):
        topology("mi300x", 1)
    with pytest.raises(UserError, match="h100 comes in 1, 2, 4, 8 chips here, not in 64"):
        topology("h100", 64)
    with pytest.raises(UserError, match="tpu_v5e comes in 1, 4, 8, 16, 32, 64 chips here, not in 3"):
        topology("tpu_v5e", 3)
    with pytest.raises(UserError, match="unknown program 'serve'"):
        Program("serve", 1, 1)
    for platform in ("tpu", "cuda"):
        with pytest.raises(UserError, match=f"make {platform}"):
            ask({"platform": platform}, ROOT / "no-such-python")


def test_a_gpu_is_described_by_its_facts():
    said = target(load_device("t4"))
    assert "cuda_compute_capability { major: 7 minor: 5 }" in said and "core_count: 40" in said
    assert "shared_memory_per_block_optin: 65536" in said and "device_memory_size: 16000000000" in said
    assert "shared_memory_per_block_optin: 232448" in target(load_device("h100"))  # 227 KiB, as OpenXLA has it


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


needs_tpu, needs_cuda = (
    pytest.mark.skipif(not compiler.python.is_file(), reason=f"no {compiler.python.parts[0]}: make {name}")
    for name, compiler in COMPILERS.items()
)


@pytest.mark.slow
@needs_tpu
def test_a_decode_step_compiled_for_a_tpu_holds_its_weights_and_cache():
    program, kept = Program("decode", rows=4, length=128), Storage("bf16", {"other": 16}, {"other": "bfloat16"}, 16)
    one = compile_for("tpu_v5e", 1, program, SHAPE)
    held = weight_bytes(SHAPE, kept) + 4 * cache_bytes(SHAPE, kept, 128)
    assert one["fits"] and not one["collectives"]
    assert held <= one["memory"]["argument"] <= 2 * held  # padded to the chip's tiles
    four = compile_for("tpu_v6e", 4, Program("decode", rows=4, length=128, tensor=2), SHAPE)
    assert four["collectives"]


@pytest.mark.slow
@needs_tpu
def test_what_does_not_fit_is_found_before_a_pod_is_rented():
    wide = DecoderConfig(49152, 576, 30, 9, 3, 64, 1536)
    answer = compile_for("tpu_v5e", 1, Program("train", rows=256, length=2048), wide)
    assert not answer["fits"]
    assert "memory" in answer["needs"]


@pytest.mark.slow
@needs_cuda
def test_a_decode_step_compiled_for_gpus_holds_its_weights_and_cache():
    program, kept = Program("decode", rows=4, length=128), Storage("bf16", {"other": 16}, {"other": "bfloat16"}, 16)
    held = weight_bytes(SHAPE, kept) + 4 * cache_bytes(SHAPE, kept, 128)
    one = compile_for("l4", 1, program, SHAPE)
    assert one["fits"] and not one["collectives"]
    assert held <= one["memory"]["argument"] <= 1.1 * held  # nothing is padded
    two = compile_for("h100", 2, Program("decode", rows=4, length=128, tensor=2), SHAPE)
    assert two["collectives"]


@pytest.mark.slow
@pytest.mark.parametrize("device", [pytest.param("tpu_v5e", marks=needs_tpu), pytest.param("h100", marks=needs_cuda)])
def test_integer_weights_stay_integers(device):
    """What a decode step holds falls by what int4 saves, and no floats of the layers' weights are written in between; of the
    vocabulary's table they are, on a GPU."""
    shape = DecoderConfig(8192, 512, 4, 8, 2, 64, 1536)
    floats, integers = (
        compile_for(device, 1, Program("decode", 4, 128, bits=bits), shape)["memory"] for bits in (16, 4)
    )
    matrices = 2 * shape.num_parameters
    saved = matrices * (1 - (4 + 16 / 32) / 16)  # a scale of 16 bits for 32 weights
    assert floats["argument"] - integers["argument"] == pytest.approx(saved, rel=0.05)
    table = 2 * shape.vocab_size * shape.hidden_size
    assert integers["temp"] - floats["temp"] < table + 0.05 * (matrices - table)


@pytest.mark.parametrize("given", [{"name": "train", "bits": 8}, {"name": "decode", "tensor": 2, "bits": 4}])
def test_integers_are_neither_trained_nor_split(given):
    with pytest.raises(UserError, match="neither trained nor split"):
        Program(rows=1, length=8, **given)


@pytest.mark.slow
@needs_cuda
def test_what_a_gpu_cannot_hold_is_found_before_it_is_rented():
    wide = DecoderConfig(49152, 576, 2, 9, 3, 64, 1536)
    answer = compile_for("t4", 1, Program("train", rows=256, length=2048), wide)
    assert not answer["fits"]
    assert "of 12.0 GB" in answer["needs"]  # three quarters of it, as JAX takes

"""The roofline against arithmetic done by hand, published floors, and laws that any such model obeys."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.errors import UserError
from tradewind.hardware.device import load_device
from tradewind.hardware.roofline import (
    Machine,
    Storage,
    cache_bytes,
    claim,
    decode,
    max_rows,
    prefill,
    step,
    weight_bytes,
)
from tradewind.model.config import DecoderConfig

SMOLLM2 = DecoderConfig(49152, 576, 30, 9, 3, 64, 1536)
SMALL = DecoderConfig(100, 8, 2, 2, 1, 4, 16)
FLOAT = Storage("fp32", {"other": 32}, {"other": "float32"}, 32)


def kept(bits, dtype="bfloat16"):
    return Storage(str(bits), {"other": bits}, {"other": dtype}, 16)


def machine(**changes):
    return replace(Machine("plain", {"float32": 1e12}, {"other": 1e9}, 1e9), **changes)


def test_work_of_a_small_decoder_counted_by_hand():
    # q 8x8, k 8x4, v 8x4, o 8x8, gate, up, down 8x16: 576 weights a layer; the table 8x100
    weights = 2 * 576 + 800
    assert weight_bytes(SMALL, FLOAT) == 4 * weights
    assert cache_bytes(SMALL, FLOAT) == 2 * 2 * 1 * 4 * 4
    made = decode(SMALL, FLOAT, machine(), rows=3, context=5)
    attention = 4 * 3 * 5 * 2 * 4 * 2
    assert made.flops == 2 * 3 * weights + attention
    assert made.bytes == 4 * weights + 3 * 5 * 64
    assert made.seconds == pytest.approx(made.bytes / 1e9)  # 1.5 operations a byte, a thousand a second for each
    assert made.bound == "memory"


def test_a_prompt_attends_to_what_is_before_it():
    made = prefill(SMALL, FLOAT, machine(), tokens=4, past=2)
    pairs = 3 + 4 + 5 + 6
    assert made.flops == 2 * (4 * 2 * 576 + 800) + 4 * pairs * 2 * 4 * 2


@pytest.mark.parametrize(
    ("device", "bits", "microseconds"),
    [("h100", 16, 84), ("h100", 8, 44), ("h100", 4.5, 26), ("l4", 16, 936), ("tpu_v5e", 16, 342), ("tpu_v6e", 8, 89)],
)
def test_floors_of_one_stream_published_for_this_model(device, bits, microseconds):
    """A table of bandwidth alone, worked out elsewhere for 135 million weights and 512 tokens of context."""
    bare = replace(load_device(device).machine(), on_chip=0.0)
    assert 1e6 * decode(SMOLLM2, kept(bits), bare, 1, 512).seconds == pytest.approx(microseconds, rel=0.04)


def test_weights_that_stay_on_the_chip_are_read_from_there():
    held = weight_bytes(SMALL, FLOAT) + cache_bytes(SMALL, FLOAT, 5)
    near = machine(on_chip=held, on_chip_bandwidth=4e9)
    far = replace(near, on_chip=held - 1)
    assert decode(SMALL, FLOAT, near, 1, 5).on_chip
    assert not decode(SMALL, FLOAT, far, 1, 5).on_chip
    assert decode(SMALL, FLOAT, far, 1, 5).memory_s == 4 * decode(SMALL, FLOAT, near, 1, 5).memory_s


def test_launches_alone_bound_a_small_model_on_a_fast_chip():
    fast = machine(flops={"float32": 1e18}, bandwidth={"other": 1e18}, launch=1e-6, kernels=(10, 4))
    made = decode(SMALL, FLOAT, fast, 1, 5)
    assert made.bound == "launch"
    assert made.seconds == pytest.approx(24e-6, rel=1e-3)


def test_padding_makes_one_row_cost_a_tile():
    slow = machine(flops={"float32": 1e9}, bandwidth={"other": 1e15}, tile=(8, 1, 1))
    products = {
        kind: seconds for kind, seconds in decode(SMALL, FLOAT, slow, 1, 5).parts.items() if kind != "attention"
    }
    filled = {kind: seconds for kind, seconds in decode(SMALL, FLOAT, slow, 8, 5).parts.items() if kind != "attention"}
    assert products == filled
    assert decode(SMALL, FLOAT, slow, 1, 5).flops < decode(SMALL, FLOAT, slow, 8, 5).flops


def test_heads_that_do_not_divide_are_kept_by_every_chip():
    linked = machine(interconnect=1e8)
    one, two = (step(SMALL, FLOAT, linked, 1, 1, 4, chips) for chips in (1, 2))  # one head of keys
    assert two.parts["attention"] == one.parts["attention"] and two.parts["gate"] == one.parts["gate"] / 2


def test_two_chips_share_the_weights_and_pay_for_talking():
    linked = machine(interconnect=1e8, hop=1e-6)
    one, two = (step(SMALL, FLOAT, linked, 1, 1, 4, chips) for chips in (1, 2))
    cache = cache_bytes(SMALL, FLOAT, 5)
    assert two.bytes == (one.bytes - cache) / 2 + cache
    sent = 8 * 2  # hidden size in 16 bits
    assert two.network_s == pytest.approx(2 * 2 * (sent / 1e8 + 1e-6))
    assert one.network_s == 0


@settings(deadline=None)
@given(st.integers(1, 64), st.integers(1, 512), st.floats(4, 32))
def test_more_work_never_takes_less_time(rows, context, bits):
    h100, bound, storage = load_device("h100").machine(reach=0.6), load_device("h100").machine(), kept(bits)
    here = decode(SMOLLM2, storage, h100, rows, context)
    assert here.seconds <= decode(SMOLLM2, storage, h100, rows + 1, context).seconds
    assert here.seconds <= decode(SMOLLM2, storage, h100, rows, context + 1).seconds
    assert here.seconds >= decode(SMOLLM2, storage, bound, rows, context).seconds


def test_rows_that_fit_fill_the_memory_and_no_more():
    chip = load_device("l4").machine()
    rows = max_rows(SMOLLM2, kept(16), chip, 1024, spare=0.0)
    decode(SMOLLM2, kept(16), chip, rows, 1024)
    with pytest.raises(UserError, match=r"L4.*holds 24.0 GB"):
        decode(SMOLLM2, kept(16), chip, rows + 1, 1024)


def test_claims_above_the_roofline_are_refused():
    bound = decode(SMOLLM2, kept(16), load_device("h100").machine(), 1, 512)
    assert claim(0.9 / bound.seconds, bound, 1, "a card") is None
    told = claim(30000, bound, 1, "a card")
    assert told and re.match(r"a card: 30,000 token/s is above its roofline of \d\d,\d\d\d \(bound by memory\)", told)


def test_the_bound_overlaps_everything_and_no_estimate_passes_it():
    tall = machine(flops={"float32": 1e9}, bandwidth={"other": 1e9})
    made = step(SMALL, FLOAT, tall, 1, 3, 2)
    operations, read = made.flops / 1e9, made.bytes / 1e9
    assert made.least_s == pytest.approx(max(operations, read)) and made.least_s < made.seconds
    held = weight_bytes(SMALL, FLOAT) + cache_bytes(SMALL, FLOAT, 5)
    half = replace(tall, flops={"float32": 1e15}, on_chip=held / 2)  # nobody says how fast that half is
    assert decode(SMALL, FLOAT, half, 1, 5).least_s == pytest.approx(held / 2 / 1e9)


def test_narrow_weights_are_bound_by_the_fastest_products_of_a_chip():
    quick = machine(flops={"bfloat16": 1e9, "int8": 2e9}, bandwidth={"other": 1e15})
    wide, narrow = (step(SMALL, kept(bits), quick, 1, 4, 0) for bits in (16, 8.5))
    assert wide.least_s == pytest.approx(2 * narrow.least_s)


def test_measured_rates_count_where_there_are_some():
    rates = {"float32": [(1, [(1e3, 1e9), (1e5, 1e8)]), (4, [(1.0, 4e9)])]}
    known = machine(at_rows=rates)
    assert known.rate("float32", 1, 1e2) == pytest.approx(1e9)
    assert known.rate("float32", 1, 1e4) == pytest.approx(10**8.5)
    assert known.rate("float32", 2, 1e2) == pytest.approx(2e9)
    assert known.rate("float32", 100, 1e9) == pytest.approx(4e9)
    assert known.rate("float32") == machine().rate("float32")


def test_faults_name_what_is_missing():
    with pytest.raises(UserError, match=r"T4.* multiplies no bfloat16"):
        decode(SMOLLM2, kept(16), load_device("t4").machine(), 1, 512)
    with pytest.raises(UserError, match="no interconnect"):
        step(SMOLLM2, kept(16), load_device("l4").machine(), 1, 1, 0, chips=2)
    with pytest.raises(UserError, match="at least 1"):
        decode(SMOLLM2, kept(16), load_device("l4").machine(), 0, 512)

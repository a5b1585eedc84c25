"""Devices as data: all of them load, have sources and sane figures; faults are named."""

import copy

import pytest
import yaml

from tests.support import ROOT
from tradewind.errors import UserError
from tradewind.hardware.device import known_chip, load_device, names, read_device

FOLDER = ROOT / "conf" / "hardware"
H100 = yaml.safe_load((FOLDER / "h100.yaml").read_text())


@pytest.mark.parametrize("name", names(FOLDER))
def test_a_device_has_figures_of_its_kind(name):
    device = load_device(name, FOLDER)
    assert 0.01 < max(device.peak_tflops.values()) < 10_000
    assert 1 <= device.bandwidth_gbs <= 100_000
    if device.price_usd_hour:
        assert 0 < device.price_usd_hour.low <= device.price_usd_hour.high < 50
    low, high = device.peak_tflops.get("float32", 0), max(device.peak_tflops.values())
    assert low <= high


@pytest.mark.parametrize(
    ("name", "peak", "bandwidth"),
    [("h100", 989, 3350), ("h200", 989, 4800), ("a100", 312, 2039), ("tpu_v5e", 197, 819), ("mi300x", 1307, 5300)],
)
def test_figures_of_well_known_chips(name, peak, bandwidth):
    device = load_device(name, FOLDER)
    assert device.peak_tflops["bfloat16"] == pytest.approx(peak, rel=0.01)
    assert device.bandwidth_gbs == pytest.approx(bandwidth, rel=0.01)


def changed(**keys):
    return {**copy.deepcopy(H100), **keys}


def test_a_figure_without_a_source_is_refused():
    with pytest.raises(UserError, match="H100 SXM5 80 GB: no source for price_usd_hour"):
        read_device(changed(sources=[s for s in H100["sources"] if "price_usd_hour" not in s["of"]]), "h100")
    with pytest.raises(UserError, match="a source is of 'speed', which is no key"):
        read_device(changed(sources=[*H100["sources"], {**H100["sources"][0], "of": ["speed"]}]), "h100")


def test_faults_of_a_file_are_named():
    with pytest.raises(UserError, match="h100: unknown key 'colour'"):
        read_device(changed(colour="green"), "h100")
    with pytest.raises(UserError, match="unknown kind 'toaster'"):
        read_device(changed(kind="toaster"), "h100")
    with pytest.raises(UserError, match=r"unknown device 'h300' \(did you mean h200\? choices: a100, "):
        load_device("h300", FOLDER)
    with pytest.raises(UserError, match="sources must be a list"):
        read_device(changed(sources=None), "h100")


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("TPU v5 lite", "tpu_v5e"),
        ("TPU v6 lite", "tpu_v6e"),
        ("Intel(R) Xeon(R) Processor", None),
        ("NVIDIA L40S", None),
    ],
)
def test_a_chip_is_known_by_what_its_driver_calls_it(said, name):
    assert known_chip(said) == name

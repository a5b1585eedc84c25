"""Places modelled from conf/hardware, and devices that are none, with the reason."""

import pytest

from tradewind.files import write_json
from tradewind.hardware.__main__ import arguments
from tradewind.hardware.places import MODELLED, Model, NoPlace, Place, modelled, refused_by_compiler
from tradewind.model.config import DecoderConfig

INT4 = Model("base-int4", DecoderConfig(49152, 576, 30, 9, 3, 64, 1536), ({"tensors": ".*", "dtype": "int4"},))


def at(name, context=512, rows=8, refused=None):
    return modelled(INT4, name, 0.6, context, rows, refused or {})


def test_weights_are_modelled_as_the_engine_keeps_them():
    """135 million weights of 4 bits, with a scale of 16 for each 32, are 76 MB on a GPU; on cores engine jax widens them to
    float32, 0.54 GB."""
    gpu, cores = at("l4"), at("cloud_cpu")
    assert isinstance(gpu, Place) and isinstance(cores, Place) and gpu.tier == cores.tier == MODELLED
    cache = 2 * 30 * 3 * 64 * 8 * 512  # 8 bits
    assert (gpu.needs, cores.needs) == (
        pytest.approx(0.0757e9 + cache, rel=0.01),
        pytest.approx(0.538e9 + cache, rel=0.01),
    )
    read = 0.0757e9 / (0.6 * 300e9)  # of the L4's 300 GB/s
    assert gpu.times.step + gpu.times.row > read


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("t4", {}, "multiplies no bfloat16"),
        ("phone_soc", {}, "nobody says a price"),
        ("l4", {"context": 200_000, "rows": 64}, "24 GB hold"),
        ("h100", {"refused": {"h100": 100_000_000}}, "says its compiler"),
    ],
)
def test_a_device_that_cannot_be_planned_for_says_why(name, given, why):
    found = at(name, **given)
    assert isinstance(found, NoPlace) and found.device == name and why in found.why


def test_a_tpu_without_a_power_figure_is_a_place(tmp_path):
    found = at("tpu_v6e", refused={"tpu_v6e": 10**9})  # the model is smaller than the one that was refused
    assert isinstance(found, Place) and found.watts is None and found.price == pytest.approx(2.70)


def test_the_compilers_refusals_are_read_from_its_report(tmp_path):
    rows = [{"device": device, "program": program, "chips": chips, "fits": fits}
            for device, program, chips, fits in (("h100", "decode", 1, True), ("l4", "decode", 1, False),
                                                  ("a100", "train", 1, False), ("t4", "decode", 8, False))]  # fmt: skip
    assert refused_by_compiler(tmp_path) == {}
    write_json(tmp_path / "hardware" / "compiled.json", {"parameters": 7, "programs": rows})
    assert refused_by_compiler(tmp_path) == {"l4": 7}


def test_the_commands_of_the_readme_are_understood():
    given = arguments(["estimate", "--device", "h100", "l4", "--rows", "1", "64", "--chips", "3"])
    assert (given.device, given.rows, given.chips) == (["h100", "l4"], [1, 64], 3)

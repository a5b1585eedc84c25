"""Meters read from files like the kernel's."""

import pytest

from tradewind.hardware.energy import meter


@pytest.fixture
def packages(tmp_path):
    domains = {
        "intel-rapl:0": "package-0",
        "intel-rapl:1": "package-1",
        "intel-rapl:0:0": "core",
        "intel-rapl:2": "psys",
    }
    for name, domain in domains.items():  # a core is counted in its package, and packages in psys
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(f"{domain}\n")
        (tmp_path / name / "energy_uj").write_text("9000000\n")
        (tmp_path / name / "max_energy_range_uj").write_text("10000000\n")
    return tmp_path


def test_packages_are_summed_and_counters_may_start_anew(packages):
    rapl = meter(accelerated=False, rapl=packages)
    assert rapl is not None and rapl.name == "RAPL, 2 packages"
    before = rapl.joules()
    (packages / "intel-rapl:0" / "energy_uj").write_text("500000\n")  # over 10 J, and on to 0.5
    (packages / "intel-rapl:1" / "energy_uj").write_text("9250000\n")
    assert rapl.joules() - before == pytest.approx(1.5 + 0.25)


def test_no_meter_is_no_error(tmp_path):
    assert meter(accelerated=False, rapl=tmp_path) is None

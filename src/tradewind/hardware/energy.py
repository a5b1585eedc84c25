"""Joules that a part of this machine used, where it has a meter: RAPL of the CPU's package, NVML of NVIDIA GPUs.

A meter counts since some start; what was used is the difference of two looks. Where there is none (virtual machines rarely
show theirs), energy is modelled as power of the device times the seconds that it was held, and is said to be.
Not covered: memory and fans, the rest of the server, meters of TPUs.
"""

from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from typing import Any

RAPL = Path("/sys/class/powercap")


class Meter(ABC):
    """`joules` since some start, of the device that `name` says."""

    name: str

    @abstractmethod
    def joules(self) -> float: ...


class Rapl(Meter):
    """Sum over the packages' counters, which start anew at `max_energy_range_uj`."""

    def __init__(self, folders: list[Path]) -> None:
        self.name = f"RAPL, {len(folders)} package{'s' if len(folders) > 1 else ''}"
        self._folders = folders
        self._last = [_number(folder / "energy_uj") for folder in folders]
        self._turns = [0] * len(folders)

    def joules(self) -> float:
        total = 0
        for index, folder in enumerate(self._folders):
            now = _number(folder / "energy_uj")
            if now < self._last[index]:
                self._turns[index] += 1
            self._last[index] = now
            total += now + self._turns[index] * _number(folder / "max_energy_range_uj")
        return 1e-6 * total


class Nvml(Meter):
    """The counter of the first GPU, in millijoules since the driver was loaded (Volta and later)."""

    def __init__(self, library: Any) -> None:
        library.nvmlInit()
        self._library, self._handle = library, library.nvmlDeviceGetHandleByIndex(0)
        self.name = f"NVML, {library.nvmlDeviceGetName(self._handle)}"
        self.joules()

    def joules(self) -> float:
        return float(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3


def meter(accelerated: bool, rapl: Path = RAPL) -> Meter | None:
    """Of the GPU where the engine runs there, else of the CPU; None where none can be read."""
    if accelerated:
        try:
            library: Any = import_module("pynvml")
        except ImportError:
            return None
        try:
            return Nvml(library)
        except library.NVMLError:  # no driver, or a GPU without the counter
            return None
    try:
        folders = [
            path.parent for path in sorted(rapl.glob("intel-rapl:?/name")) if path.read_text().startswith("package")
        ]
        return Rapl(folders) if folders else None
    except OSError:
        return None


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))

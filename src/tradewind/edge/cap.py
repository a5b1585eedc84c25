"""A memory cap on one child process: cgroup v2 where this user may make a group, else a watchdog that kills.

The life of a capped process: 1. `choose_cap` tries to make a group with a limit; 2. the child joins it before it runs
anything; 3. `watch` waits for its end, and the watchdog samples its peak meanwhile; 4. `exceeded` says whether the cap
ended it. The two count differently: a group counts what the child touches, pages of files too, and takes those back
before it kills; the watchdog counts the highest resident set (VmHWM), mapped files included, and gives nothing back.
Not covered: swap (off in a group, not counted by the watchdog), grandchildren of a watched process, other systems than
Linux.
"""

import os
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path

from tradewind.host import peak_rss

MIB = 1 << 20
SAMPLE_S = 0.005
"""Between two looks of the watchdog. A look is a few microseconds; memory grows at most by some MiB in between."""


class Cap(ABC):
    """A limit in bytes. `mechanism` names it to the user."""

    mechanism: str

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.exceeded = False

    @abstractmethod
    def join(self) -> None:
        """Called in the child, before it runs its program."""

    @abstractmethod
    def watch(self, process: "subprocess.Popen[str]") -> None:
        """Until the process ends."""

    def saw(self, peak: int) -> None:  # noqa: B027 - a group counts for itself
        """What the process says of its own peak: its last moments may have gone unseen."""

    def close(self) -> None:  # noqa: B027 - only a group leaves something behind
        """Remove what was made. The process has ended."""


class Group(Cap):
    """A cgroup of its own below `parent`. Raises OSError where it cannot be made or has no memory controller."""

    mechanism = "cgroup v2 memory.max"

    def __init__(self, limit: int, parent: Path) -> None:
        super().__init__(limit)
        self.folder = parent / f"tradewind-edge-{os.getpid()}"
        self.folder.mkdir()
        try:
            self._write("memory.max", limit)
            self._write("memory.oom.group", 1)
            if (self.folder / "memory.swap.max").exists():
                self._write("memory.swap.max", 0)
        except OSError:
            self.folder.rmdir()
            raise

    def join(self) -> None:
        self._write("cgroup.procs", os.getpid())

    def watch(self, process: "subprocess.Popen[str]") -> None:
        process.wait()
        events = dict(line.split() for line in (self.folder / "memory.events").read_text().splitlines())
        self.exceeded = int(events.get("oom_kill", 0)) > 0

    def close(self) -> None:
        self.folder.rmdir()

    def _write(self, name: str, value: int) -> None:
        with open(
            self.folder / name, "r+", encoding="ascii"
        ) as file:  # r+: a missing controller is an error, no new file
            file.write(str(value))


class Watchdog(Cap):
    """Samples the peak and kills."""

    mechanism = "a watchdog on VmHWM"

    def join(self) -> None:
        """Nothing."""

    def watch(self, process: "subprocess.Popen[str]") -> None:
        while process.poll() is None:
            self.saw(peak_rss(process.pid))
            if self.exceeded:
                process.kill()
            time.sleep(SAMPLE_S)

    def saw(self, peak: int) -> None:
        self.exceeded |= peak > self.limit


def choose_cap(limit: int, groups: Path | None = None) -> Cap:
    """A group below this process's own or beside it (a systemd user session delegates the latter), else the watchdog.

    groups: the folder of this process's cgroup; None: looked up.
    """
    folder = own_group() if groups is None else groups
    for parent in () if folder is None else (folder, folder.parent):
        try:
            return Group(limit, parent)
        except OSError:
            continue
    return Watchdog(limit)


def own_group() -> Path | None:
    """The folder of this process's cgroup of version 2; None where there is none."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        paths = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    roots = [Path(line.split()[1]) for line in mounts if line.split()[2] == "cgroup2"]
    own = [line.removeprefix("0::/") for line in paths if line.startswith("0::/")]
    return roots[0] / own[0] if roots and own else None

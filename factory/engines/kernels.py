"""Whether vLLM's CPU kernel for attention takes a model's heads, told without importing vLLM."""

from __future__ import annotations

import ast
import importlib.util
import os
from pathlib import Path

from factory.domain.bounded import parse_json, read_text
from factory.domain.failures import ModelError
from factory.workspace.architecture import head_size
from factory.workspace.machine import visible_gpus
from factory.workspace.models import is_installed
from factory.workspace.settings import EngineSection

SOURCE = "v1/attention/backends/cpu_attn.py"
"""In vLLM's package."""
SIZES = "get_supported_head_sizes"
"""The function there that returns a list of numbers."""


def check_heads(folder: Path, engine: EngineSection) -> None:
    """Raise ModelError where vLLM is to serve the model on a CPU and has no kernel for its heads.

    Models whose heads are not told by config.json alone pass, and engines on a cluster, of whose
    GPUs nothing is known here: vLLM says so itself as it starts.
    """
    sampler = engine.sampler
    is_vllm = sampler == "vllm" or (sampler == "auto" and is_installed("vllm"))
    is_elsewhere = engine.backend == "ray" and os.environ.get("RAY_ADDRESS")
    if not is_vllm or is_elsewhere or visible_gpus():
        return
    file = folder / "config.json"
    size = head_size(parse_json(read_text(file, error=ModelError), str(file), ModelError))
    sizes = cpu_head_sizes()
    if size and sizes and size not in sizes:
        key = "inner" if engine.backend == "ray" else "backend"
        raise ModelError(
            f"the model's heads have {size} numbers each, and vLLM has kernels for "
            f"{', '.join(map(str, sizes))} on a CPU",
            where=str(file),
            remedy=f'set {key} = "transformers" under [engine] in factory.toml',
        )


def cpu_head_sizes() -> list[int]:
    """What the installed vLLM says that it has; [] where it does not say it as a plain list."""
    spec = importlib.util.find_spec("vllm")
    if (
        spec is None
        or spec.origin is None
        or not (file := Path(spec.origin).parent / SOURCE).exists()
    ):
        return []
    for node in ast.walk(ast.parse(read_text(file))):
        if isinstance(node, ast.FunctionDef) and node.name == SIZES:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return) and isinstance(inner.value, ast.List):
                    values = [e.value for e in inner.value.elts if isinstance(e, ast.Constant)]
                    return [value for value in values if isinstance(value, int)]
    return []

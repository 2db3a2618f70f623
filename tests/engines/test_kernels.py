"""Heads that vLLM has no kernel for on a CPU: refused before an engine starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workspaces import ROOT, make_workspace

from factory.domain.failures import ModelError
from factory.engines import kernels
from factory.engines.kernels import check_heads, cpu_head_sizes
from factory.workspace.architecture import head_size
from factory.workspace.settings import EngineSection

VLLM = EngineSection(backend="vllm")


def model_with(folder: Path, **changes: object) -> Path:
    """The embedded model's folder, with other keys in its config."""
    shutil.copytree(ROOT / "rounds" / "seed", folder)
    config = json.loads((folder / "config.json").read_text("utf-8")) | changes
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"model_type": "llama", "hidden_size": 576, "num_attention_heads": 9}, 64),
        ({"model_type": "llama", "hidden_size": 480, "num_attention_heads": 10}, 48),
        ({"model_type": "qwen3", "hidden_size": 1024, "num_attention_heads": 16}, 128),
        ({"model_type": "gemma", "hidden_size": 2048, "num_attention_heads": 8}, 256),
        (
            {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "head_dim": 72}},
            72,
        ),
        ({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 0}, 0),
        ({"model_type": "deepseek_v3", "hidden_size": 480, "num_attention_heads": 10}, 0),
        ({}, 0),
    ],
)
def test_a_head_is_as_large_as_the_config_says(config: dict[str, object], size: int) -> None:
    assert head_size(config) == size


@pytest.mark.skipif(not kernels.is_installed("vllm"), reason="vLLM is not installed")
def test_the_installed_vllm_tells_its_sizes_without_being_imported() -> None:
    code = (
        "import sys; from factory.engines.kernels import cpu_head_sizes\n"
        "print(cpu_head_sizes(), 'vllm' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == f"{cpu_head_sizes()} False\n"
    assert {32, 64, 128} <= set(cpu_head_sizes())


def test_heads_without_a_kernel_are_refused_on_a_cpu_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = [32, 64]
    monkeypatch.setattr(kernels, "cpu_head_sizes", lambda: sizes)
    monkeypatch.setattr(kernels, "visible_gpus", tuple)
    odd = model_with(tmp_path / "odd", head_dim=48)
    with pytest.raises(ModelError, match="heads have 48 numbers each") as caught:
        check_heads(odd, VLLM)
    assert caught.value.remedy.startswith('set backend = "transformers"')
    check_heads(odd, EngineSection(backend="transformers"))
    check_heads(odd, EngineSection(backend="ray", inner="transformers"))
    with pytest.raises(ModelError) as caught:
        check_heads(odd, EngineSection(backend="ray", inner="vllm"))
    assert caught.value.remedy.startswith('set inner = "transformers"')
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_heads(odd, EngineSection(backend="ray", inner="vllm"))
    check_heads(model_with(tmp_path / "even"), VLLM)
    monkeypatch.setattr(kernels, "visible_gpus", lambda: ("0",))
    check_heads(odd, VLLM)
    monkeypatch.setattr(kernels, "visible_gpus", tuple)
    sizes.clear()
    check_heads(odd, VLLM)


@pytest.mark.skipif(not cpu_head_sizes(), reason="no vLLM that tells its sizes")
def test_doctor_says_so(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "work")
    model_with(workspace.root / "model", head_dim=48)
    settings = 'model = "model"\n[engine]\nbackend = "vllm"\n'
    workspace.marker.write_text(settings, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "factory", "doctor"], cwd=workspace.root, env=env,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 3 or done.returncode == 2, done.stdout
    assert "heads have 48 numbers each" in " ".join(done.stdout.split())

"""factory.toml: the model, the engine and the rules' severities, typed and checked."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Literal

from pydantic import Field

from factory.domain.failures import InputError
from factory.workspace.folder import Workspace
from factory.workspace.recipe import RuleSetting, Section, read_toml, validate

_MODEL_LINE = re.compile(r"""(?m)^[ \t]*model[ \t]*=[ \t]*(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*')""")
"""A setting's key and value; what follows them stays."""


_SECTION = re.compile(r"(?m)^[ \t]*\[")


class EngineSection(Section):
    """The machine and the engine on it; also what an engine's child is told."""

    backend: Literal["auto", "vllm", "transformers"] = "auto"
    """auto is vLLM where it is installed."""
    threads: int = Field(0, ge=0)
    """CPU threads; 0 is the cores that are free when the command starts."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int = Field(4096, gt=0)
    """Prompt and answer together, in tokens; the model's own limit where that is smaller."""
    memory_gib: float = Field(1.0, gt=0)
    """KV cache of vLLM on the CPU, in GiB."""
    gpu_memory: float = Field(0.9, gt=0, le=1)
    """Share of the device's memory that vLLM takes on a GPU, weights included."""
    max_batch: int = Field(256, gt=0)
    """Sequences that decode at a time; a request's n samples are never split by transformers."""
    max_restarts: int = Field(3, ge=0)
    """Deaths a request may be part of before it is tried alone; four times as many end the run."""


class Settings(Section):
    """factory.toml."""

    recipe: str = "base"
    model: str = "rounds/seed"
    """Folder of the round-0 model: absolute, or relative to the workspace or shipped files."""
    queries: tuple[str, ...] = ()
    """Query files, relative to the workspace."""
    replay: str = ""
    """Seed examples for replay (JSON lines of messages); empty is <model>/replay.jsonl if any."""
    engine: EngineSection = EngineSection()
    rules: dict[str, RuleSetting] = Field(default_factory=dict)
    """Rule id to off, warn or reject."""


def load_settings(workspace: Workspace) -> Settings:
    """factory.toml, checked. Raises RecipeError with file and key."""
    return validate(Settings, read_toml(workspace.marker), str(workspace.marker))


def name_model(workspace: Workspace, model: str) -> bool:
    """Write `model` into factory.toml, where nothing else changes; False where it is named already.

    Raises InputError where the file cannot be written.
    """
    path = workspace.marker
    was = load_settings(workspace).model
    if workspace.model_folder(was).resolve() == workspace.model_folder(model).resolve():
        return False
    line = f"model = {json.dumps(model, ensure_ascii=False)}"
    try:
        text = path.read_bytes().decode()
        section = _SECTION.search(text)
        head, rest = (text[: section.start()], text[section.start() :]) if section else (text, "")
        head, num_written = _MODEL_LINE.subn(lambda _: line, head, count=1)
        text = head + rest if num_written else f"{line}\n{text}"
        if tomllib.loads(text) != {**read_toml(path), "model": model}:
            raise ValueError("its `model` is written in another way")
        path.write_bytes(text.encode())
    except (OSError, ValueError) as error:
        raise InputError(
            f"the model of --model cannot be kept in {path.name}: {error}",
            where=str(path),
            remedy=f"write {line} into it, above the first [section]",
        ) from error
    return True

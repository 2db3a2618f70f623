"""factory.toml: the model, the engine and the rules' severities, typed and checked."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from factory.domain.bounded import read_text
from factory.domain.canon import to_json
from factory.domain.failures import InputError, RecipeError
from factory.workspace.checking import check_table, read_toml
from factory.workspace.folder import Workspace
from factory.workspace.recipe import RuleSetting, Section

SELF = "self"
"""In the place of a file with requests: the model writes its own."""


class EngineSection(Section):
    """The machine and the engine on it; also what an engine's child is told."""

    LATER = frozenset({"tensor_parallel", "data_parallel", "replicas", "inner"})

    backend: Literal["auto", "vllm", "transformers", "ray"] = "auto"
    """auto is vLLM where it is installed; ray deals requests to engines on many GPUs."""
    threads: int = Field(0, ge=0)
    """CPU threads; 0 is the cores that are free when the command starts."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int = Field(4096, gt=0)
    """Prompt and answer together, in tokens; the model's own limit where that is smaller."""
    memory_gib: float = Field(1.0, gt=0)
    """KV cache of vLLM on the CPU, in GiB."""
    gpu_memory: float = Field(0.9, gt=0, le=1)
    """Share of the device's memory that vLLM takes on a GPU, weights included."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs that share one copy of the model (vLLM)."""
    data_parallel: int = Field(1, ge=1)
    """Copies of the model, each in a child of its own on GPUs of its own."""
    replicas: int = Field(0, ge=0)
    """Engines that Ray keeps; 0 is one for each GPU, or for each of `threads` where there is no
    GPU."""
    inner: Literal["auto", "vllm", "transformers"] = "auto"
    """Backend of each engine that Ray keeps."""
    max_batch: int = Field(256, gt=0)
    """Sequences that decode at a time; a request's n samples are never split by transformers."""
    max_restarts: int = Field(3, ge=0)
    """Deaths a request may be part of before it is tried alone; four times as many end the run."""

    @model_validator(mode="after")
    def _check_copies(self) -> Self:
        if self.backend == "ray" and self.data_parallel > 1:
            raise ValueError("copies that Ray keeps are engine.replicas, not engine.data_parallel")
        if self.backend != "ray" and (self.replicas or self.inner != "auto"):
            raise ValueError(
                'engine.replicas and engine.inner need engine.backend = "ray"; without Ray, copies '
                "on this machine are engine.data_parallel"
            )
        return self

    @property
    def sampler(self) -> str:
        """The backend that computes the answers, whoever deals the requests; it may be auto."""
        return self.inner if self.backend == "ray" else self.backend


class Settings(Section):
    """factory.toml."""

    recipe: str = "base"
    model: str = "rounds/seed"
    """Folder of the round-0 model: absolute, or relative to the workspace or shipped files."""
    queries: tuple[str, ...] = ()
    """Query files, relative to the workspace; the word SELF stands for requests that the model
    writes where they give too few."""
    chat: tuple[str, ...] = ()
    """Files of requests that no tool is needed for (`make.chat`), relative to the workspace."""
    replay: str = ""
    """Seed examples for replay (JSON lines of messages); empty is <model>/replay.jsonl if any."""
    engine: EngineSection = EngineSection()
    rules: dict[str, RuleSetting] = Field(default_factory=dict)
    """Rule id to off, warn or reject."""

    @field_validator("queries", mode="before")
    @classmethod
    def _one_word_is_a_list(cls, value: object) -> object:
        return (SELF,) if value == SELF else value


def load_settings(workspace: Workspace) -> Settings:
    """factory.toml, checked. Raises RecipeError with file and key."""
    table = read_toml(workspace.marker, error=RecipeError)
    return check_table(Settings, table, str(workspace.marker), error=RecipeError)


def name_model(workspace: Workspace, model: str) -> bool:
    """Write `model` into factory.toml, where nothing else changes; False where it is named already.

    Raises InputError where the file cannot be written.
    """
    import tomlkit  # 30 ms, which no other command needs

    path = workspace.marker
    was = load_settings(workspace).model
    if workspace.model_folder(was).resolve() == workspace.model_folder(model).resolve():
        return False
    try:
        settings = tomlkit.parse(read_text(path, error=RecipeError))
        settings["model"] = model
        path.write_bytes(tomlkit.dumps(settings).encode())
    except (OSError, ValueError) as error:
        raise InputError(
            f"the model of --model cannot be kept in {path.name}: {error}",
            where=str(path),
            remedy=f"write model = {to_json(model)} into it, above the first [section]",
        ) from error
    return True

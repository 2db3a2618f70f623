"""A training as a job: its settings, its files and its result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from factory.codes.config import CodeConfig
from factory.domain.canon import COMPRESS_PROMPT, ENCODE_PROMPT, canonical_json, digest
from factory.domain.failures import InputError
from factory.domain.records import CodeAlias, GivenCode, Pair, Progress, Tool
from factory.train.examples import write_rows
from factory.workspace.folder import Workspace
from factory.workspace.models import fingerprint
from factory.workspace.prompts import Prompts

DONE_FILE = "training.json"
"""Last file written into a checkpoint folder: the result of the job that made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How to train. Example: TrainConfig(method="full", learning_rate=3e-4, batch_size=16)."""

    method: Literal["full", "lora"] = "lora"
    """All weights, or low-rank adapters on all linear layers plus the rows of the code tokens."""
    learning_rate: float = 1e-4
    """Peak, reached after `warmup_ratio` of the steps, then cosine to 0."""
    epochs: float = 1.0
    """Passes over the examples."""
    batch_size: int = 64
    """Examples of one optimizer step."""
    micro_batch_size: int = 8
    """Examples of one forward pass, of like length; a step's gradients add up over its passes."""
    max_length: int = 4096
    """Longest example in tokens; longer ones are dropped and counted."""
    warmup_ratio: float = 0.1
    """Share of the steps with rising learning rate (ToolDev §4)."""
    lora_rank: int = 16
    """r of the adapters."""
    lora_alpha: int = 32
    """alpha of the adapters."""
    row_rate: float = 5.0
    """Learning rate of code-token rows by that of the adapters; lora only."""
    code_share: float = 0.3
    """Share of the loss on code tokens (algorithms §8: CODE .15, RETR .15); 0 is no weighting."""
    seed: int = 0
    """Of the order of examples, the adapters and the codebook."""
    dtype: str = "auto"
    """Arithmetic: bfloat16, float32, or auto (bfloat16 where the machine computes in it)."""
    codes: CodeConfig | None = field(default_factory=CodeConfig)
    """Which codes, and when they are made anew; None gives none, and the parent's stay as they are
    but for following the model into its new space."""

    def __post_init__(self) -> None:
        if self.batch_size % self.micro_batch_size:
            raise InputError(
                f"batch_size {self.batch_size} is no multiple of micro_batch_size "
                f"{self.micro_batch_size}",
                remedy="set train.micro_batch_size to a divisor of train.batch_size",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """One training run, as files. Example: see factory.round."""

    checkpoint: Path
    """Folder of the parent checkpoint."""
    out: Path
    """Folder to make; it appears whole or not at all."""
    examples: Path
    """JSON lines of examples (dataset.write_examples)."""
    new_tools: Path
    """JSON lines of tools to give codes to (write_tools), in order of insertion; may be empty.
    `pairs.jsonl` beside it, if there, holds tools that are called together (write_pairs)."""
    workspace: Path
    """Root of the workspace, whose prompts `codes/encode` and, of gist states, `codes/compress` say
    what a code is made from."""
    config: TrainConfig
    """How."""

    @property
    def pairs(self) -> Path:
        """Where write_pairs has written, if it has."""
        return self.new_tools.with_name("pairs.jsonl")

    def to_json(self) -> dict[str, Any]:
        """The job as JSON; inverse of from_json."""
        paths = {key: str(getattr(self, key)) for key in _PATHS}
        return {**paths, "config": asdict(self.config)}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> TrainingJob:
        """The job of to_json."""
        codes = row["config"]["codes"]
        config = {**row["config"], "codes": CodeConfig.from_json(codes) if codes else None}
        return cls(**{key: Path(row[key]) for key in _PATHS}, config=TrainConfig(**config))

    def digest(self) -> str:
        """Identity of its result: the parent's weights, the data and the configuration."""
        prompts = Prompts.load(Workspace(self.workspace))
        shas = [prompts.sha(name) for name in (ENCODE_PROMPT, COMPRESS_PROMPT)]
        paths = [path for path in (self.examples, self.new_tools, self.pairs) if path.exists()]
        files = [digest(path.read_text("utf-8"), 32) for path in paths]
        weights = fingerprint(self.checkpoint)
        return digest(canonical_json([weights, *shas, *files, asdict(self.config)]))


_PATHS = ("checkpoint", "out", "examples", "new_tools", "workspace")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What came out of a run."""

    path: Path
    """The new checkpoint's folder."""
    fingerprint: str
    """Of its weights (engines.base.fingerprint)."""
    num_examples: int
    """Examples trained on."""
    dropped: dict[str, int]
    """`<kind>/<reason>` to examples left out: given = num_examples + dropped."""
    num_tokens: int
    """Tokens seen over all epochs, padding left out."""
    steps: int
    """Optimizer steps."""
    seconds: float
    """Of training alone, without loading and saving."""
    codes: tuple[GivenCode, ...]
    """Codes given in this run."""
    codebook: dict[str, Any] | None
    """The checkpoint's codebook in figures (Codebook.summary); None where it has none."""
    log: tuple[Progress, ...]
    """Every step."""
    restarts: int
    """How often the child had to be run again."""
    recoded: dict[str, Any] | None = None
    """Why and how the codes were made anew (Recoding.figures); None: were not."""
    aliases: tuple[CodeAlias, ...] = ()
    """What became of the code tokens then."""
    unlearnt: tuple[str, ...] = ()
    """Ids of the tools whose code examples were all left out."""


# -- the parent's side ----------------------------------------------------------------------------


def write_tools(path: Path, tools: Sequence[Tool]) -> None:
    """Write tools as JSON lines, in the order in which they get their codes."""
    write_rows(path, ({"id": tool.id, "document": tool.document} for tool in tools))


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Write tools that are called together as JSON lines."""
    write_rows(path, map(asdict, pairs))


def read_pairs(path: Path) -> list[Pair]:
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [Pair(**json.loads(line)) for line in lines]


def read_tools(path: Path) -> list[Tool]:
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    return [Tool(id=row["id"], document=row["document"]) for row in rows]

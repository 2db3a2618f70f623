"""A training as a job: its settings, its files and its result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from factory.domain.canon import COMPRESS_PROMPT, ENCODE_PROMPT, canonical_json, digest
from factory.domain.records import CodeAlias, Fluency, Form, GivenCode, Pair, Progress, Tool
from factory.train.examples import write_rows
from factory.workspace.folder import Workspace
from factory.workspace.identity import identify
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import (
    CodesSection,
    GistSection,
    QuantizedSection,
    Section,
    StageSection,
    TrainSection,
)

ROW_RATE = 5.0
"""Learning rate of the code tokens' rows by that of the adapters beside them (lora)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetup:
    """How to train: what the recipe says, and what each training has of its own."""

    train: TrainSection = field(default_factory=TrainSection)
    codes: CodesSection = field(default_factory=CodesSection)
    """Where none are made, the parent's stay as they are but for following the model."""
    seed: int = 0
    """Of the order of examples, the adapters and the codebook."""
    gist_seed: int = 0
    """Of compression."""
    stages: tuple[StageSection, ...] = ()
    """What is done one after the other; none: all kinds together, as `train` says."""
    dtype: str = "auto"
    """Arithmetic: bfloat16, float32, or auto (bfloat16 where the machine computes in it)."""
    version: int = 1
    """Of the codebook that is made, should one be."""
    form: Form = "own"
    """In which the examples call."""

    def to_json(self) -> dict[str, Any]:
        """As JSON; inverse of from_json."""
        sections = {"train": self.train.model_dump(), "codes": self.codes.model_dump()}
        stages = [stage.model_dump() for stage in self.stages]
        return {name: getattr(self, name) for name in _OWN} | sections | {"stages": stages}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> TrainingSetup:
        """The setup of to_json. Values were checked with the recipe: what a trial varies, such as
        recode_every, need not make a whole recipe."""
        parts: dict[str, type[Section]] = {"gist": GistSection, "quantized": QuantizedSection}
        nested = {name: part(**row["codes"][name]) for name, part in parts.items()}
        return cls(
            train=TrainSection.model_construct(**row["train"]),
            codes=CodesSection.model_construct(**{**row["codes"], **nested}),
            stages=tuple(StageSection(**stage) for stage in row.get("stages", ())),
            **{name: row[name] for name in _OWN if name in row},
        )

    def values(self) -> dict[str, Any]:
        """What a training is known by, in the JSON that finished ones were stored with."""
        stages = [stage.known_by() for stage in self.stages]
        return {
            **{k: v for k, v in self.train.known_by().items() if k not in _NOT_ITS_OWN},
            "row_rate": ROW_RATE,
            "seed": self.seed,
            "dtype": self.dtype,
            "codes": code_values(self.codes, self.gist_seed, self.version),
            **({"stages": stages} if stages else {}),
            **({"form": self.form} if self.form != "own" else {}),
        }


_OWN = ("seed", "gist_seed", "dtype", "version", "form")
_OF_EXAMPLES = (
    *("replay", "replay_limit", "history", "documents", "gen_target", "no_call"),
    *("accepted", "min_accepted"),
)
"""Keys of [train] that decide which examples there are: a training is known by these themselves."""
_NOT_ITS_OWN = (*_OF_EXAMPLES, "save_minutes")
"""Those, and the key that changes no weight."""


def code_values(codes: CodesSection, gist_seed: int, version: int) -> dict[str, Any] | None:
    """What codes are known by, as in TrainingSetup.values; None where none are made."""
    if not codes.are_made:
        return None
    known = codes.known_by()
    for sampled in ("retrieve", "decode", "keep"):
        known.pop(sampled, None)
    gist = known["gist"] | {"seed": gist_seed} if codes.gist.views else None
    return known | {"gist": gist, "version": version}


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
    `pairs.jsonl` beside it, if there, holds tools that are called together (write_pairs);
    `plain.txt` a text without codes, by which language is measured."""
    workspace: Path
    """Root of the workspace, whose prompts `codes/encode` and, of gist states, `codes/compress` say
    what a code is made from."""
    setup: TrainingSetup

    @property
    def pairs(self) -> Path:
        """Where write_pairs has written, if it has."""
        return self.new_tools.with_name("pairs.jsonl")

    @property
    def plain(self) -> Path:
        """Where plain text is, if any."""
        return self.new_tools.with_name("plain.txt")

    @property
    def saved(self) -> Path:
        """Folder of the step that was saved last, if any (factory.train.keeping)."""
        return self.examples.with_name("saved")

    def to_json(self) -> dict[str, Any]:
        """The job as JSON; inverse of from_json."""
        paths = {key: str(getattr(self, key)) for key in _PATHS}
        return {**paths, "setup": self.setup.to_json()}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> TrainingJob:
        """The job of to_json."""
        setup = TrainingSetup.from_json(row["setup"])
        return cls(**{key: Path(row[key]) for key in _PATHS}, setup=setup)

    def digest(self, *, of_weights: bool = False) -> str:
        """Identity of its result: the parent in every part, the data and the configuration.

        `of_weights`: as versions gave it that knew the parent by its weights alone.
        """
        prompts = Prompts.load(Workspace(self.workspace))
        shas = [prompts.sha(name) for name in (ENCODE_PROMPT, COMPRESS_PROMPT)]
        paths = [path for path in (self.examples, self.new_tools, self.pairs) if path.exists()]
        files = [digest(path.read_text("utf-8"), 32) for path in paths]
        parts = dict(identify(self.checkpoint).parts)
        known = [parts.pop("weights"), *shas, *files, self.setup.values()]
        return digest(canonical_json([*known, parts] if parts and not of_weights else known))


_PATHS = ("checkpoint", "out", "examples", "new_tools", "workspace")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFigures:
    """What one stage of a run came to; its losses are in the run's log."""

    number: int
    """From 1, on through all iterations."""
    name: str
    examples: int
    """That it taught."""
    too_long: int
    """Of its kinds, but only another stage has room for them."""
    steps: int
    skipped: str
    """Why it did nothing; empty where it trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What came out of a run."""

    path: Path
    """The new checkpoint's folder."""
    fingerprint: str
    """Of its weights (engines.base.fingerprint)."""
    num_examples: int
    dropped: dict[str, int]
    """`<kind>/<reason>` to examples left out: given = num_examples + dropped."""
    num_tokens: int
    """Tokens seen over all epochs, padding left out."""
    steps: int
    seconds: float
    """Of training alone, without loading and saving."""
    codes: tuple[GivenCode, ...]
    """Codes given in this run."""
    codebook: dict[str, Any] | None
    """The checkpoint's codebook in figures (Codebook.summary); None where it has none."""
    log: tuple[Progress, ...]
    restarts: int
    """How often the child had to be run again."""
    recoded: dict[str, Any] | None = None
    """Why and how the codes were made anew (Recoding.figures); None: were not."""
    aliases: tuple[CodeAlias, ...] = ()
    """What became of the code tokens then."""
    unlearnt: tuple[str, ...] = ()
    """Ids of the tools whose code examples were all left out."""
    stages: tuple[StageFigures, ...] = ()
    """Those of the recipe, in their order; none where it has none."""
    language: Mapping[str, Fluency] = field(default_factory=dict)
    """Of the job's plain text `before`, once new tools are `coded`, and `after`."""
    form: Form = "own"
    """In which it was taught to call."""


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

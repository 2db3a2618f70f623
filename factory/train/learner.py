"""The model that is trained, with its tokenizer, its turn and its codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from factory.codes.codebook import Codebook
from factory.codes.reader import DocumentReader, load_gist
from factory.codes.saving import load_codebook
from factory.domain.records import Example, ExampleKind
from factory.engines.loading import load_whole, make_savable, stored_dtype
from factory.engines.turn import Turn, turn_of
from factory.train.encoding import EncodedSet, encode_all
from factory.train.job import TrainingJob
from factory.train.memory import num_processes
from factory.train.team import Team
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts

Send = Callable[[dict[str, Any]], None]


def encode_for(
    learner: Learner,
    examples: Sequence[Example],
    codebook: Codebook | None,
    max_length: int,
    limits: Mapping[ExampleKind, int] | None = None,
) -> EncodedSet:
    """What encode_all makes of examples; none is longer than the model knows."""
    most = learner.max_positions
    return encode_all(
        examples,
        codes=codebook,
        outliers=codebook.outliers if codebook else frozenset(),
        tokenizer=learner.tokenizer,
        turn=learner.turn,
        max_length=min(max_length, most),
        limits=limits and {kind: min(longest, most) for kind, longest in limits.items()},
    )


@dataclass(slots=True, kw_only=True)
class Learner:
    """The model in training and what belongs to it."""

    model: PreTrainedModel
    """Causal, its master weights in float32 unless only adapters are trained."""
    tokenizer: PreTrainedTokenizerBase
    codebook: Codebook | None
    """The codes that it came with."""
    reader: DocumentReader
    """What its codes are made from."""
    stored_dtype: torch.dtype
    """Of the parent's files, kept for the result's."""
    prompts: Prompts
    """For the texts of the examples that making codes anew adds."""
    turn: Turn
    """What its chat template writes around an answer."""
    gpu: bool
    """Whether it is on a GPU."""
    team: Team | None = None
    """The processes that share its training, where there are several."""

    @property
    def max_positions(self) -> int:
        """Longest sequence the model knows."""
        text = self.model.config.get_text_config()
        return int(getattr(text, "max_position_embeddings", None) or 2**31)


def load_learner(job: TrainingJob) -> Learner:
    set_seed(job.setup.seed)
    codebook = load_codebook(job.checkpoint)
    gpu = torch.cuda.is_available()
    master = torch.bfloat16 if gpu and job.setup.train.method == "lora" else torch.float32
    model = load_whole(job.checkpoint, master)
    make_savable(model, job.checkpoint)
    model = model.to("cuda" if gpu else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(job.checkpoint, local_files_only=True)
    workspace = Workspace(job.workspace)
    prompts = Prompts.load(workspace)
    embedder = job.setup.codes.embedder if job.setup.codes.are_made else ""
    reader = DocumentReader(
        model=model,
        tokenizer=tokenizer,
        prompts=prompts,
        gist=load_gist(job.checkpoint, codebook),
        embedder=workspace.model_folder(embedder) if embedder else None,
    )
    return Learner(
        model=model,
        tokenizer=tokenizer,
        codebook=codebook,
        reader=reader,
        stored_dtype=stored_dtype(job.checkpoint),
        prompts=prompts,
        turn=turn_of(model, tokenizer),
        gpu=gpu,
        team=Team(processes, gpu) if (processes := num_processes(job.setup.train)) > 1 else None,
    )

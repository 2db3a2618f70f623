"""`python -m factory.train.preview_child`: reads documents with a model and gives tools codes.

The model is not trained. Asked to fit, it writes a new folder or nothing; asked to add, it gives
the checkpoint other `codes/`, once the parent says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from factory.codes.arrays import Floats
from factory.codes.codebook import Codebook
from factory.codes.config import reads_documents
from factory.codes.gist import GIST_PATH
from factory.codes.growing import add_tools, fit_codebook, unexplained
from factory.codes.install import install
from factory.codes.picture import draw_space
from factory.codes.reader import DocumentReader, load_gist
from factory.codes.saving import FOLDER, load_codebook, save_codebook
from factory.domain.monitor import Monitor
from factory.domain.records import Tool
from factory.engines.chat import load_tokenizer
from factory.engines.child import Channel, run_child
from factory.engines.loading import copy_processors, load_model, make_savable
from factory.engines.turn import turn_of
from factory.train.job import TrainingSetup
from factory.train.preview import CodingJob, Preview, advise, describe
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts

NUM_SHOWN = 5
"""Tools whose neighbours are shown."""
NUM_NEIGHBOURS = 3


class UntrainedModel:
    """A checkpoint's model, loaded when first asked: another embedder may do without it."""

    def __init__(self, folder: Path, monitor: Monitor) -> None:
        self.folder = folder
        self._monitor = monitor

    @cached_property
    def model(self) -> PreTrainedModel:
        """On a GPU in the precision of its files, on the CPU in single precision."""
        self._monitor.stage("loading the model")
        model = load_model(self.folder)
        make_savable(model, self.folder)
        self.stored_dtype = model.dtype
        return model if torch.cuda.is_available() else model.float()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.folder)

    @property
    def stop(self) -> int | None:
        """The token that follows a code in its chat template."""
        return turn_of(self.model, self.tokenizer).stop

    def make_reader(self, workspace: Workspace, embedder: str) -> DocumentReader:
        """What embeds documents: this model, or the folder of another embedder."""
        return DocumentReader(
            model=None if embedder else self.model,
            tokenizer=None if embedder else self.tokenizer,
            prompts=Prompts.load(workspace),
            embedder=workspace.model_folder(embedder) if embedder else None,
        )


def fit(job: CodingJob, setup: TrainingSetup, monitor: Monitor) -> Preview:
    """Fit codes, write the model with them where the job says so, and describe them."""
    codes = setup.codes
    subject = UntrainedModel(job.checkpoint, monitor)
    reader = subject.make_reader(Workspace(job.workspace), codes.embedder)
    if codes.gist.views:
        monitor.stage("compressing documents")
        reader.compress(job.tools, codes.gist, setup.gist_seed, monitor.stage)
    rows = _order(job)
    documents_ND = _embed(reader, job.tools, monitor)[rows]
    monitor.stage(f"fitting {codes.coder} codes")
    codebook = fit_codebook(
        [job.tools[row] for row in rows],
        documents_ND,
        codes,
        seed=setup.seed,
        pairs=job.pairs,
        on_progress=monitor.progress,
    )
    if job.out is not None:
        monitor.stage("writing the model")
        set_seed(setup.seed)
        own = None if codes.embedder or not reads_documents(codes) else documents_ND
        install(codebook, subject.model, subject.tokenizer, own, reframe=codes.reframe)
        subject.model.to(subject.stored_dtype).save_pretrained(job.out)
        subject.tokenizer.save_pretrained(job.out)
        copy_processors(job.checkpoint, job.out)
        _save_codes(job.out, codebook, subject, reader)
    left = unexplained(codebook, documents_ND)
    labels = [f"{entry.tool.name}  {codebook.text_of(entry.code)}" for entry in codebook.tools]
    title = f"{codes.coder} codes of {len(codebook)} tools"
    return Preview(
        figures=describe(codebook) | {"variance left": "-" if left is None else f"{left:.1%}"},
        neighbours=_neighbours(codebook),
        picture=draw_space(documents_ND, codebook.codes, labels, title),
        advice=advise(codebook),
    )


def add(job: CodingJob, monitor: Monitor) -> Callable[[], None]:
    """Give the job's tools codes; what comes back writes them aside, and renames them."""
    codebook = load_codebook(job.checkpoint)
    assert codebook is not None
    subject = UntrainedModel(job.checkpoint, monitor)
    reader = subject.make_reader(Workspace(job.workspace), codebook.embedder)
    reader.gist = load_gist(job.checkpoint, codebook)
    reads, rows = codebook.coder.reads_documents, _order(job)
    documents_ND = _embed(reader, job.tools, monitor)[rows] if reads else None
    grown = add_tools(codebook, [job.tools[row] for row in rows], documents_ND)
    if grown.full is not None:
        raise grown.full

    def write() -> None:
        aside = job.checkpoint / f"{FOLDER}.new"
        shutil.rmtree(aside, ignore_errors=True)
        _save_codes(aside, grown.codebook, subject, reader)
        (job.checkpoint / FOLDER).rename(aside / "old")
        (aside / FOLDER).rename(job.checkpoint / FOLDER)
        shutil.rmtree(aside)

    return write


def _order(job: CodingJob) -> list[int]:
    """Rows of the tools in the order in which they get their codes."""
    rows = list(range(len(job.tools)))
    return sorted(rows, key=lambda row: job.tools[row].id) if job.by_id else rows


def _embed(reader: DocumentReader, tools: Sequence[Tool], monitor: Monitor) -> Floats:
    """(N, D) or (N, V, D) embeddings of the tools' documents."""
    monitor.stage("embedding documents", len(tools))
    return reader.embed(tools, monitor.progress)


def _save_codes(
    folder: Path, codebook: Codebook, subject: UntrainedModel, reader: DocumentReader
) -> None:
    save_codebook(codebook, folder, subject.tokenizer, subject.stop)
    if reader.gist is not None:
        reader.gist.save(folder / GIST_PATH)


def _neighbours(codebook: Codebook) -> list[list[str]]:
    """A few tools with those whose codes are nearest, for a person to judge."""
    if not codebook.coder.reads_documents:
        return []
    step = max(1, len(codebook) // NUM_SHOWN)
    rows = []
    for entry in codebook.tools[::step][:NUM_SHOWN]:
        near = codebook.similar(entry.tool.id, NUM_NEIGHBOURS)
        names = ", ".join(f"{other.tool.name} ({distance})" for other, distance in near)
        rows.append([entry.tool.name, codebook.text_of(entry.code), names])
    return rows


class ChannelMonitor:
    """A monitor at the other end of the channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def stage(self, name: str, total: int | None = None) -> None:
        self._channel.send({"type": "stage", "name": name, "total": total})

    def progress(self, done: int, detail: str = "", total: int | None = None) -> None:
        message = {"type": "progress", "done": done, "detail": detail, "total": total}
        self._channel.send(message)

    def note(self, text: str) -> None:
        self._channel.send({"type": "note", "text": text})


def main(channel: Channel, arguments: list[str]) -> None:
    """Do the job of the first message; codes are added once a second one says that they may be."""
    if (opening := channel.receive()) is None:
        return
    job, monitor = CodingJob.from_json(opening), ChannelMonitor(channel)
    if job.setup is not None:
        channel.send({"type": "answer", **asdict(fit(job, job.setup, monitor))})
        return
    write = add(job, monitor)
    channel.send({"type": "answer"})
    if channel.receive() is not None:
        write()
        channel.send({"type": "answer"})


if __name__ == "__main__":
    run_child(main)

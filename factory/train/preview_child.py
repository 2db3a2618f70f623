"""`python -m factory.train.preview_child`: reads documents with a model and gives tools codes.

The model is not trained. Asked to fit, it writes a new folder or nothing; asked to add, it gives
the checkpoint other `codes/`, once the parent says so.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from factory.codes.apart import Kept, Lookups, tell_apart
from factory.codes.arrays import Floats, as_NVD
from factory.codes.codebook import Codebook
from factory.codes.config import reads_documents
from factory.codes.gist import GIST_PATH
from factory.codes.growing import add_tools, fit_codebook, unexplained
from factory.codes.install import install
from factory.codes.language import read_language
from factory.codes.levels import LevelCoder
from factory.codes.literal import encoder_of
from factory.codes.picture import draw_space
from factory.codes.quantized import Cost, QuantizedCoder
from factory.codes.reader import DocumentReader, load_gist
from factory.codes.saving import FOLDER, load_codebook, save_codebook
from factory.codes.trie import Trie
from factory.codes.vocabulary import MAX_DOCUMENT_TOKENS
from factory.domain.failures import ModelError
from factory.domain.monitor import Monitor
from factory.domain.plaintext import encodable
from factory.domain.records import Tool
from factory.engines.beam import BeamSearch
from factory.engines.chat import load_tokenizer
from factory.engines.child import Channel, run_child
from factory.engines.loading import copy_processors, load_model, make_savable
from factory.engines.sharing import open_to_others
from factory.engines.turn import turn_of
from factory.train.examples import own_words
from factory.train.job import TrainingSetup
from factory.train.preview import CodingJob, Preview, advise, describe
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts

NUM_SHOWN = 5
"""Tools whose neighbours are shown."""
NUM_NEIGHBOURS = 3
MOST_ASKED = 1000
"""Tools that are looked up by their own words, evenly spread over all."""
BEAMS, TIMED = 5, 3
"""Codes that are followed at once, and times of which the shortest counts."""


class UntrainedModel:
    """A checkpoint's model, loaded when first asked."""

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
    started = time.perf_counter()
    codebook = fit_codebook(
        [job.tools[row] for row in rows],
        documents_ND,
        codes,
        seed=setup.seed,
        pairs=job.pairs,
        on_progress=monitor.progress,
    )
    costs: dict[str, Any] = {"fitting, s": round(time.perf_counter() - started, 2)}
    if isinstance(codebook.coder, QuantizedCoder):
        costs |= _describe_cost(codebook.coder.cost)
    apart, words = _tell_apart(codebook, documents_ND, job, setup, reader, monitor)
    own = None if codes.embedder or not reads_documents(codes) else documents_ND
    language: dict[str, str] = {}
    if codebook.tokens:
        language = _install(job, setup, codebook, subject, own, monitor)
        if times := _time_levels(subject, codebook):
            costs["decoding, ms a level"] = times
    if job.out is not None:
        monitor.stage("writing the model")
        subject.model.to(subject.stored_dtype).save_pretrained(job.out)
        subject.tokenizer.save_pretrained(job.out)
        copy_processors(job.checkpoint, job.out)
        _save_codes(job.out, codebook, subject, reader)
        open_to_others(job.out, job.checkpoint)
    left = unexplained(codebook, documents_ND)
    labels = [f"{entry.tool.name}  {codebook.text_of(entry.code)}" for entry in codebook.tools]
    title = f"{codes.coder} codes of {len(codebook)} tools"
    return Preview(
        figures={
            **describe(codebook),
            "variance left": "-" if left is None else f"{left:.1%}",
            **costs,
            **language,
        },
        neighbours=_neighbours(codebook),
        picture=draw_space(documents_ND, codebook.codes, labels, title),
        advice=advise(codebook),
        asked=words,
        apart=apart,
    )


def _install(
    job: CodingJob,
    setup: TrainingSetup,
    codebook: Codebook,
    subject: UntrainedModel,
    documents_ND: Floats | None,
    monitor: Monitor,
) -> dict[str, str]:
    """Put the codes into the model; what it makes of plain text before and after, for a person."""
    set_seed(setup.seed)
    monitor.stage("giving code tokens their first rows")
    model, tokenizer = subject.model, subject.tokenizer
    before = read_language(model, tokenizer, job.plain)
    ids = install(codebook, model, tokenizer, documents_ND, how=setup.codes.first_rows)
    tokens = [token for position in ids for token in position]
    after = read_language(model, tokenizer, job.plain, tokens)
    if before is None or after is None:
        return {}
    return {
        "perplexity of plain requests": f"{before.perplexity:.2f} → {after.perplexity:.2f}",
        "probability of code tokens there": f"{after.code_mass:.3%}",
    }


def _describe_cost(cost: Cost) -> dict[str, Any]:
    """What training the autoencoder took, and how much the graph term was of the loss."""
    share = cost.sinkhorn_seconds / cost.seconds if cost.seconds else 0.0
    drawn = {} if cost.graph_share is None else {"graph term at first": f"{cost.graph_share:.2%}"}
    return {"of it Sinkhorn": f"{share:.1%}", **drawn}


def _tell_apart(
    codebook: Codebook,
    documents_ND: Floats,
    job: CodingJob,
    setup: TrainingSetup,
    reader: DocumentReader,
    monitor: Monitor,
) -> tuple[list[Kept], str]:
    """How much of one's requests, or of the tools' own words, codes can tell apart."""
    if not isinstance(codebook.coder, LevelCoder):
        return [], ""
    row_of = {tool_id: row for row, tool_id in enumerate(codebook.tool_ids)}
    if job.asked:
        texts = [label.query for label in job.asked]
        wanted = [[row_of[tool_id] for tool_id in label.tools] for label in job.asked]
        words = f"{len(texts)} requests"
    else:
        rows = np.unique(
            np.linspace(0, len(codebook) - 1, min(MOST_ASKED, len(codebook))).astype(int)
        )
        texts = [encodable(own_words(codebook.tools[row].tool)) for row in rows]
        wanted = [[int(row)] for row in rows]
        words = f"{len(texts)} tools, each by its own name and description"
    monitor.stage("embedding requests", len(texts))
    asked = Lookups(
        embeddings_QVD=as_NVD(reader.embed_texts(texts, monitor.progress)), wanted=wanted
    )
    monitor.stage("seeing what codes can tell apart")
    found = tell_apart(
        codebook.coder,
        codebook.codes,
        as_NVD(documents_ND),
        asked,
        size=setup.codes.size,
        seed=setup.seed,
        on_progress=monitor.progress,
    )
    return found, words


def _time_levels(subject: UntrainedModel, codebook: Codebook) -> list[float]:
    """Milliseconds of each number of a code by a beam of BEAMS, after a request has been read; none
    for a model that codes are not searched with."""
    model, tokenizer = subject.model, subject.tokenizer
    spelt = codebook.spelling.encode([*codebook.codes], tokenizer, str(subject.folder))
    trie = Trie.build(spelt, list(codebook.tool_ids), subject.stop or int(tokenizer.eos_token_id))
    words = encodable(own_words(codebook.tools[0].tool))
    ids = encoder_of(tokenizer).encode(words)[:MAX_DOCUMENT_TOKENS]
    runs = []
    try:
        for _ in range(TIMED):
            search = BeamSearch(model, trie)
            search.search([ids], k=BEAMS, beams=BEAMS)
            runs.append(search.seconds[1:])
    except ModelError:
        return []
    return [round(1000 * min(times), 1) for times in zip(*runs, strict=True)]


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

"""Examples -> checkpoint: TRL's SFTTrainer in a child process, supervised by the command.

The child (`python -m factory.train '<job>'`) starts from the parent checkpoint with a fresh
optimizer (A10), gives new tools their codes, learns the examples, and writes a plain model folder
that an engine serves as it is. The folder is written aside and renamed, so a child that is killed
is simply run again.

Objective (algorithms §8): token-mean cross-entropy on assistant texts and their end-of-turn
tokens, all kinds mixed in one epoch (ToolDev Eq. 4-6: an unweighted sum). Code tokens alone are
weighted: a code is a handful of tokens where a document is hundreds, so together they get
`code_share` of the loss, but one code example never more than an average other example. Codes that
read as digits or names share their tokens with other text: there the answers of code examples are
weighted, up to their end.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from factory.canon import canonical_json, digest
from factory.child import Channel, Child, run_child
from factory.codes.base import OnProgress, silent
from factory.codes.gist import GIST_PATH, Epoch, Gist, GistConfig, Readable, make_readable
from factory.codes.graph import Pair
from factory.codes.guided import Coding, make_coding
from factory.codes.levels import choose_shape
from factory.codes.lifecycle import (
    CodeAlias,
    Codebook,
    CodeConfig,
    Recoding,
    ToolCode,
    fit_codebook,
    recode,
)
from factory.codes.vocabulary import add_code_tokens, code_tokens, kept_rows
from factory.dataset import (
    Encoded,
    EncodedSet,
    code_example,
    encode_all,
    read_examples,
    unique_examples,
    write_rows,
)
from factory.engines.base import check_model_folder, fingerprint
from factory.engines.turn import Turn, turn_of
from factory.failures import ChildError, DiskError, GateError, InputError, MissingError, ModelError
from factory.prompts import COMPRESS_PROMPT, ENCODE_PROMPT, Prompts
from factory.records import IGNORED, Example, Tool
from factory.workspace import Workspace

if TYPE_CHECKING:
    from factory.codes.base import Floats

DONE_FILE = "training.json"
"""Last file written into a checkpoint folder: the result of the job that made it."""

LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "sklearn")
"""What the child imports."""

NEED_LESS = (
    "lower train.micro_batch_size or train.max_length; "
    "`factory round --set train.micro_batch_size=1` continues with that value"
)
"""Remedy of a training whose memory ran out."""

MEND = "mend what the log says, then `factory round` trains again"
"""Remedy of any other that died."""

Send = Callable[[dict[str, Any]], None]


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
class Progress:
    """One optimizer step."""

    step: int
    """1 … steps; begins again where a child was restarted."""
    steps: int
    """Steps of the whole run."""
    loss: float
    """Weighted mean cross-entropy of the step's target tokens, in nats."""
    learning_rate: float
    """After warm-up and decay."""
    tokens: int
    """Tokens seen so far, padding left out."""
    seconds: float
    """Since the first step began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCodeRow:
    """The code one tool got in this run."""

    tool_id: str
    """The tool."""
    code: str
    """Its code tokens, e.g. `<a_3><b_1>`."""
    resolved_by: str
    """`nearest`, or how a collision was resolved (factory.codes.assign)."""
    error: float
    """Quantisation error of the document's embedding."""
    ood: bool
    """Too far from the codebook: not trained on."""


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
    codes: tuple[ToolCodeRow, ...]
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


async def run_training(
    job: TrainingJob,
    *,
    threads: int,
    log: Path,
    on_progress: Callable[[Progress], None],
    on_phase: Callable[[str], None],
    max_restarts: int,
    notify: Callable[[str], None],
) -> TrainingResult:
    """Train in a child process; one that is killed is run again, at most `max_restarts` times.

    The same job with the same number of threads gives the same weights (on a CPU).
    `on_phase` is told what the child does next (`loading the model`, …), `notify` the cause of
    each restart.

    Raises ChildError once the restarts are used up, or where the child ends by an exception (the
    next one would end the same way), and the child's own failures.
    """
    _need_libraries()
    check_model_folder(job.checkpoint)
    line = json.dumps(job.to_json())
    for attempt in range(max_restarts + 1):
        child = await Child.start("factory.train", line, threads=threads, log=log)
        try:
            done = await _follow(child, on_progress, on_phase)
        finally:
            await child.kill()
        if done is not None:
            return _result(job, done, attempt)
        cause = child.cause()
        if child.killed_by is None:
            raise ChildError(f"training failed: {cause}", where=str(log), remedy=MEND)
        if attempt < max_restarts:
            notify(f"training died, starting it again ({attempt + 1}/{max_restarts}): {cause}")
    raise ChildError(
        f"training died {max_restarts + 1} times, last: {cause}",
        where=str(log),
        remedy=NEED_LESS if child.killed_by == signal.SIGKILL else MEND,
    )


def _need_libraries() -> None:
    for name in LIBRARIES:
        if importlib.util.find_spec(name) is None:
            raise MissingError(
                f"training needs the package {name}, which is not installed",
                remedy="pip install 'tool-factory[train]'",
            )


async def _follow(
    child: Child, on_progress: Callable[[Progress], None], on_phase: Callable[[str], None]
) -> dict[str, Any] | None:
    """The child's final message; None where it died before sending it."""
    while (message := await child.receive()) is not None:
        match message.pop("type"):
            case "progress":
                on_progress(Progress(**message))
            case "phase":
                on_phase(message["text"])
            case "done":
                return message
    return None


def _result(job: TrainingJob, done: dict[str, Any], restarts: int) -> TrainingResult:
    codes = tuple(ToolCodeRow(**row) for row in done.pop("codes"))
    log = tuple(Progress(**step) for step in done.pop("log"))
    aliases = tuple(CodeAlias(**row) for row in done.pop("aliases", ()))
    unlearnt = tuple(done.pop("unlearnt", ()))
    done.pop("job")
    return TrainingResult(
        path=job.out,
        codes=codes,
        log=log,
        aliases=aliases,
        unlearnt=unlearnt,
        restarts=restarts,
        **done,
    )


# -- the child's side -----------------------------------------------------------------------------


def train(job: TrainingJob, send: Send) -> dict[str, Any]:
    """Run the job in this process and return its final message. Imports torch.

    Raises InputError where nothing is left to learn, ModelError for a parent that cannot be
    trained, DiskError where the folder cannot be written.
    """
    if (finished := _finished(job)) is not None:
        return finished
    send({"type": "phase", "text": "loading the model"})
    examples, new_tools = read_examples(job.examples), _read_tools(job.new_tools)
    learner = _load(job)
    if learner.turn.fault is not None:
        raise learner.turn.fault
    send({"type": "phase", "text": f"giving codes to {len(new_tools)} tools"})
    given = _give_codes(learner, new_tools, examples, job, send)
    if given.recoding is not None:
        more = [code_example(t, learner.prompts, "recode") for t in given.recoding.changed]
        examples = unique_examples([*examples, *more])
    encoded = _encode(learner, examples, learner.codebook, job.config.max_length)
    if not encoded.examples:
        raise InputError(
            f"no example can be trained on: {dict(encoded.dropped)}",
            where=str(job.examples),
            remedy="raise train.max_length, or accept more samples",
        )
    if learner.codebook is not None:
        _check_codes(learner, encoded, learner.codebook)
    send({"type": "phase", "text": f"training on {encoded.num_kept} examples"})
    figures = _fit(learner, encoded, job.config, send)
    send({"type": "phase", "text": "writing the checkpoint"})
    return _save(learner, job, encoded, given, figures)


def _encode(
    learner: _Learner, examples: Sequence[Example], codebook: Codebook | None, max_length: int
) -> EncodedSet:
    return encode_all(
        examples,
        codes=codebook,
        outliers=codebook.outliers if codebook else frozenset(),
        tokenizer=learner.tokenizer,
        turn=learner.turn,
        max_length=min(max_length, learner.max_positions),
    )


def _check_codes(learner: _Learner, encoded: EncodedSet, codebook: Codebook) -> None:
    """ModelError where an answer that is a code is learnt in other ids than its trie has."""
    spelt = codebook.spellings(learner.tokenizer)
    for example in encoded.examples:
        for content in example.contents if example.is_code else ():
            if content not in spelt:
                raise ModelError(
                    "The model's tokenizer does not keep the tokens of a code apart: "
                    f"{learner.tokenizer.convert_ids_to_tokens(list(content))}",
                    where=learner.tokenizer.name_or_path,
                    remedy="choose another [codes] coder, such as numeric, or take the added token "
                    "that swallows others out of the tokenizer",
                )


def _finished(job: TrainingJob) -> dict[str, Any] | None:
    """The result, where an earlier run of the same job got to its end."""
    path = job.out / DONE_FILE
    if path.exists():
        done: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if done["job"] == job.digest() and done["fingerprint"] == fingerprint(job.out):
            return done
    return None


def _read_pairs(path: Path) -> list[Pair]:
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [Pair(**json.loads(line)) for line in lines]


def _read_tools(path: Path) -> list[Tool]:
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    return [Tool(id=row["id"], document=row["document"]) for row in rows]


@dataclass(slots=True, kw_only=True)
class DocumentReader:
    """Turns tool documents into embeddings: mean states, gist states, or another model's."""

    model: Any
    """transformers causal LM."""
    tokenizer: Any
    """Its tokenizer."""
    prompts: Prompts
    """`codes/encode` says how a document reads, for compression the prompt of the gist."""
    gist: Gist | None = None
    """How documents are compressed; None is their mean state."""
    embedder: Path | None = None
    """Folder of a sentence-transformers model, in place of the model itself."""

    def compress(
        self, tools: Sequence[Tool], config: GistConfig | None, tell: Callable[[str], None]
    ) -> None:
        """Learn to compress these documents on the model as it is; without `config`, forget how.

        Learning goes on from where it ended the last time: with `codes.recode_every` this is SGTC's
        post-guided training as its appendix has it, the trained model's own gist states being
        clustered anew (A16).
        """
        from factory.codes.gist import fit_gist

        if config is None:
            self.gist = None
            return
        self.gist = fit_gist(
            self.model,
            self.tokenizer,
            self._readable(tools, COMPRESS_PROMPT),
            config,
            start=self.gist if self.gist and self.gist.config.views == config.views else None,
            report=lambda epoch: tell(_told("compressing documents", epoch)),
        )

    def guide(
        self,
        tools: Sequence[Tool],
        config: GistConfig,
        recode: Callable[[Floats | None], Coding],
        tell: Callable[[str], None],
    ) -> None:
        """Post-guided training as SGTC's body has it: only the gist tokens move (guide_gist)."""
        from factory.codes.guided import guide_gist

        assert self.gist is not None
        self.gist = guide_gist(
            self.model,
            self.tokenizer,
            self._readable(tools, self.gist.prompt),
            self.gist,
            config,
            recode,
            report=lambda epoch: tell(_told("moving the gist tokens", epoch)),
        )

    def embed(self, tools: Sequence[Tool], on_progress: OnProgress = silent) -> Floats:
        """(N, D), or (N, V, D) gist states, of the tools' documents.

        `on_progress` hears of the documents that the model has read; another embedder is silent.
        """
        from factory.codes.gist import embed_gists
        from factory.codes.vocabulary import embed_documents, embed_with

        gist = self.gist if self.embedder is None else None
        texts = self._texts(tools, gist.prompt if gist else ENCODE_PROMPT)
        if self.embedder is not None:
            return embed_with(self.embedder, texts)
        if gist is not None:
            return embed_gists(self.model, self.tokenizer, gist, texts, on_progress=on_progress)
        return embed_documents(self.model, self.tokenizer, texts, on_progress=on_progress)

    def _readable(self, tools: Sequence[Tool], prompt: str) -> list[Readable]:
        texts = zip(self._texts(tools, prompt), tools, strict=True)
        return [make_readable(text, tool.document) for text, tool in texts]

    def _texts(self, tools: Sequence[Tool], prompt: str) -> list[str]:
        """What codes are made from, without lone surrogates."""
        texts = (self.prompts.render(prompt, tool=tool.document) for tool in tools)
        return [text.encode("utf-8", "replace").decode("utf-8") for text in texts]


def _told(doing: str, epoch: Epoch) -> str:
    return f"{doing}, epoch {epoch.number}, held-out loss {epoch.held_out:.3f}"


@dataclass(slots=True, kw_only=True)
class _Learner:
    """The model in training and what belongs to it."""

    model: Any
    """transformers causal LM, its master weights in float32 unless only adapters are trained."""
    tokenizer: Any
    """Its tokenizer."""
    codebook: Codebook | None
    """Its codes."""
    reader: DocumentReader
    """What its codes are made from."""
    stored_dtype: Any
    """torch dtype of the parent's files, kept for the result's."""
    prompts: Prompts
    """For the texts of the examples that making codes anew adds."""
    turn: Turn
    """What its chat template writes around an answer."""
    gpu: bool
    """Whether it is on a GPU."""

    @property
    def max_positions(self) -> int:
        """Longest sequence the model knows."""
        text = self.model.config.get_text_config()
        return int(getattr(text, "max_position_embeddings", None) or 2**31)


def _load(job: TrainingJob) -> _Learner:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

    set_seed(job.config.seed)
    codebook = Codebook.load(job.checkpoint)
    gpu = torch.cuda.is_available()
    stored = AutoConfig.from_pretrained(job.checkpoint, local_files_only=True).dtype
    master = torch.bfloat16 if gpu and job.config.method == "lora" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        job.checkpoint, dtype=master, local_files_only=True
    )
    make_savable(model, job.checkpoint)
    model = model.to("cuda" if gpu else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(job.checkpoint, local_files_only=True)
    workspace = Workspace(job.workspace)
    prompts = Prompts.load(workspace)
    embedder = job.config.codes.embedder if job.config.codes is not None else ""
    reader = DocumentReader(
        model=model,
        tokenizer=tokenizer,
        prompts=prompts,
        gist=load_gist(job.checkpoint, codebook),
        embedder=workspace.model_folder(embedder) if embedder else None,
    )
    return _Learner(
        model=model,
        tokenizer=tokenizer,
        codebook=codebook,
        reader=reader,
        stored_dtype=stored or torch.float32,
        prompts=prompts,
        turn=turn_of(model, tokenizer),
        gpu=gpu,
    )


def make_savable(model: Any, folder: Path) -> None:
    """Have the generation config ask for the sampling that its values are of, where it does not.

    transformers loads a model whose config has a temperature but no `do_sample`, and refuses to
    save it. Raises ModelError for a config that it refuses for another reason.
    """
    config = model.generation_config
    try:
        config.validate(strict=True)
    except ValueError:
        config.do_sample = True
        try:
            config.validate(strict=True)
        except ValueError as error:
            raise ModelError(
                f"transformers would not save this model's generation settings: {error}",
                where=str(folder / "generation_config.json"),
                remedy="take the values that it names out of the file",
            ) from error


def copy_processors(parent: Path, folder: Path) -> None:
    """Copy how a multimodal model reads what is no text, which other servers want to know."""
    for path in parent.glob("*processor_config.json"):
        shutil.copyfile(path, folder / path.name)


def load_gist(checkpoint: Path, codebook: Codebook | None) -> Gist | None:
    """How a checkpoint compresses documents; None where its codes are made of whole ones."""
    return Gist.load(checkpoint / GIST_PATH) if codebook and codebook.views else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """Codes given in this run."""

    rows: list[ToolCodeRow]
    """One a tool that got a code, its first or another one."""
    recoding: Recoding | None = None
    """What making all codes anew changed, where that was done."""


def _give_codes(
    learner: _Learner,
    tools: Sequence[Tool],
    examples: Sequence[Example],
    job: TrainingJob,
    send: Send,
) -> _Given:
    """Codes for new tools, from the parent's codebook or a new one, or for all tools anew (A41).

    Tokens that are new, or mean something else now, get rows made of their members. Embeddings come
    from the parent model, the space its codebook was last refreshed for, unless the recipe names
    another embedder.
    """
    known, codes = learner.codebook, job.config.codes
    if codes is None:
        return _Given(rows=[])
    tools = [tool for tool in tools if known is None or tool.id not in known]
    times = [f"{row:09d}" for row in range(len(tools))]
    reason = "" if known is None else known.why_recode(codes, len(tools))
    if known is None and len(tools) < max(2, codes.min_tools):
        return _Given(rows=[])
    if known is not None and not reason:
        if not tools:
            return _Given(rows=[])
        # A full codebook: what is left has no code until tools are coded anew, and its code and
        # retrieve examples are dropped as `no_code`.
        with contextlib.suppress(InputError):
            known.add(tools, _documents(learner, tools, codes), times)
        known.install(learner.model, learner.tokenizer)
        fresh = {tool.id for tool in tools}
        return _Given(rows=[_code_row(known, e) for e in known.tools if e.tool.id in fresh])
    everyone = [*(entry.tool for entry in known.tools), *tools] if known is not None else tools
    _follow_model(
        learner, everyone, examples, codes, job, lambda t: send({"type": "phase", "text": t})
    )
    documents_ND = _documents(learner, everyone, codes)
    recoding = None
    if known is None:
        learner.codebook = fit_codebook(
            tools,
            documents_ND,
            codes,
            seed=job.config.seed,
            accepted_at=times,
            pairs=_read_pairs(job.pairs),
        )
    else:
        recoding = recode(
            known,
            tools,
            documents_ND,
            codes,
            reason=reason,
            seed=job.config.seed,
            pairs=_read_pairs(job.pairs),
        )
        learner.codebook = recoding.codebook
    if documents_ND is not None:
        row_of = {tool.id: row for row, tool in reversed(list(enumerate(everyone)))}
        documents_ND = documents_ND[[row_of[entry.tool.id] for entry in learner.codebook.tools]]
    learner.codebook.install(learner.model, learner.tokenizer, documents_ND, reframe=codes.reframe)
    rows = [_code_row(learner.codebook, entry) for entry in learner.codebook.tools]
    return _Given(rows=rows, recoding=recoding)


def _follow_model(
    learner: _Learner,
    tools: Sequence[Tool],
    examples: Sequence[Example],
    codes: CodeConfig,
    job: TrainingJob,
    tell: Callable[[str], None],
) -> None:
    """Let the compression of documents follow the model, as the recipe says (A16).

    SGTC's body has L_traj over trajectories; rounds have none of their own (A47), so it is over
    the chats that ask for a tool, which supplied trajectories are among.
    """
    known, gist = learner.codebook, learner.reader.gist
    body = codes.post_guided == "body" and gist is not None and gist.config.views == codes.views
    if known is None or codes.gist is None or not body:
        learner.reader.compress(tools, codes.gist, tell)
        return
    row_of = {tool.id: row for row, tool in reversed(list(enumerate(tools)))}
    asked = [example for example in examples if example.kind == "retrieve"]
    now_NVD = learner.reader.embed(tools)
    shape = choose_shape(len(row_of), codes.size, codes.levels, codes.views)
    names = code_tokens(shape.levels * codes.views, shape.size)
    ids = add_code_tokens(learner.tokenizer, learner.model, names)
    with kept_rows(learner.model, [token for position in ids for token in position]) as give_back:

        def follow(embeddings_NVD: Floats | None) -> Coding:
            give_back()
            given_NVD, codebook = now_NVD, known
            if embeddings_NVD is not None:
                given_NVD = embeddings_NVD
                codebook = recode(
                    known, tools[len(known) :], embeddings_NVD, codes, seed=job.config.seed
                ).codebook
            rows = [row_of[entry.tool.id] for entry in codebook.tools]
            ids = codebook.install(
                learner.model, learner.tokenizer, given_NVD[rows], reframe=codes.reframe
            )
            chats = [
                chat for example in asked for chat in _encode_chats(learner, example, codebook, job)
            ]
            return make_coding(codebook, learner.model, ids, given_NVD, row_of, chats)

        learner.reader.guide(tools, codes.gist, follow, tell)


def _encode_chats(
    learner: _Learner, example: Example, codebook: Codebook, job: TrainingJob
) -> list[tuple[Sequence[int], Sequence[int]] | None]:
    """Ids and labels of an example in a codebook's codes; one a turn at most, the rest None."""
    found = _encode(learner, [example], codebook, job.config.max_length).examples
    num_turns = sum(message.role == "assistant" for message in example.messages)
    chats = [(chat.input_ids, chat.labels) for chat in found]
    return [*chats, *[None] * (num_turns - len(chats))]


def _documents(
    learner: _Learner, tools: Sequence[Tool], config: CodeConfig | None
) -> Floats | None:
    """Embeddings of the tools' documents; None where the recipe's coder reads none."""
    reads = config is None or config.reads_documents
    return learner.reader.embed(tools) if reads else None


def _code_row(codebook: Codebook, entry: ToolCode) -> ToolCodeRow:
    return ToolCodeRow(
        tool_id=entry.tool.id,
        code=codebook.text_of(entry.code),
        resolved_by=entry.resolved_by,
        error=entry.error,
        ood=entry.ood,
    )


def _code_ids(learner: _Learner) -> list[int]:
    """Token ids of all code tokens, ascending."""
    if learner.codebook is None:
        return []
    names = [token for position in learner.codebook.tokens for token in position]
    return sorted(int(number) for number in learner.tokenizer.convert_tokens_to_ids(names))


def _fit(learner: _Learner, encoded: EncodedSet, config: TrainConfig, send: Send) -> dict[str, Any]:
    """Train `learner.model` in place (adapters are merged); figures for the final message."""
    reporter = _make_reporter(send)
    # The trainer insists on a folder of its own, though it writes nothing there.
    with tempfile.TemporaryDirectory() as folder:
        trainer = _make_trainer(learner, encoded.examples, config, folder)
        trainer.add_callback(reporter)
        trainer.train()
    if config.method == "lora":
        learner.model = trainer.model.merge_and_unload()
    learner.model.config.use_cache = True
    return {
        "num_tokens": trainer.state.num_input_tokens_seen,
        "steps": trainer.state.global_step,
        "seconds": round(reporter.seconds(), 3),
        "log": reporter.log,
    }


def _make_trainer(
    learner: _Learner, examples: Sequence[Encoded], config: TrainConfig, folder: str
) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback

    coded = _code_positions(examples, set(_code_ids(learner)))
    rows = [
        {"input_ids": list(e.input_ids), "labels": list(e.labels), "coded": positions}
        for e, positions in zip(examples, coded, strict=True)
    ]
    lora = _lora_config(learner, config) if config.method == "lora" else None
    trainer = _trainer_class()(
        model=learner.model,
        args=_arguments(learner, config, folder),
        train_dataset=Dataset.from_list(rows),
        processing_class=learner.tokenizer,
        peft_config=lora,
    )
    weight = _code_weight(examples, coded, config.code_share)
    trainer.data_collator = _collate_with_weights(trainer.data_collator, weight)
    trainer.remove_callback(PrinterCallback)
    if lora is not None and config.row_rate != 1.0:
        trainer.optimizer = _two_rates(trainer.model, config)
    return trainer


def _code_positions(examples: Sequence[Encoded], code_ids: set[int]) -> list[list[int]]:
    """At which of its next tokens each example learns a code: all code tokens, or else the answers
    of code examples."""
    if code_ids:
        return [[i for i, label in enumerate(e.labels[1:]) if label in code_ids] for e in examples]
    return [
        [i for start, stop in e.spans if e.is_code for i in range(start - 1, stop - 1)]
        for e in examples
    ]


def _code_weight(
    examples: Sequence[Encoded], coded: Sequence[Sequence[int]], code_share: float
) -> float:
    """Weight of a code's token beside 1 of others, with which codes together get `code_share`, as
    long as a code example then weighs no more than an average other one."""
    num_tokens = sum(map(len, coded))
    other = sum(len(e.target_ids) for e in examples) - num_tokens
    if not (code_share > 0 and num_tokens and other):
        return 1.0
    num_coded = sum(map(bool, coded))
    most = num_coded / max(1, len(examples) - num_coded)
    return max(1.0, min(code_share / (1 - code_share), most) * other / num_tokens)


def _collate_with_weights(collate: Callable[[Any], dict[str, Any]], code_weight: float) -> Any:
    """`collate`, which fills up on the right, and (B, T - 1) weights of the next tokens, 0 where
    there is no loss."""

    def collate_all(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(rows)
        weights_BT = (batch["labels"][:, 1:] != IGNORED).float()
        for weights_T, row in zip(weights_BT, rows, strict=True):
            weights_T[row["coded"]] = code_weight
        return {**batch, "weights": weights_BT}

    return collate_all


def _arguments(learner: _Learner, config: TrainConfig, folder: str) -> Any:
    """Settings of TRL; on a CPU without packing, checkpoints of activations or extra copies."""
    from trl import SFTConfig

    big = sum(weight.numel() for weight in learner.model.parameters()) > 500_000_000
    return SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.batch_size // config.micro_batch_size,
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_ratio,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        bf16=_computes_in_bfloat16(learner.gpu, config.dtype),
        gradient_checkpointing=learner.gpu and big,
        use_cpu=not learner.gpu,
        dataloader_pin_memory=learner.gpu,
        include_num_input_tokens_seen="non_padding",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
    )


def _computes_in_bfloat16(gpu: bool, dtype: str) -> bool:
    """Whether to autocast to bfloat16: where asked for, or where the processor has it."""
    import torch

    if dtype != "auto":
        return dtype == "bfloat16"
    if gpu:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


class StepsByLength:
    """Indices of an epoch at random, those of a step from long to short.

    A step's micro-batches then hardly pad, and its gradient is that of the same examples in any
    order. Transformers' own `batch_rebalance` does as much, but repeats examples to fill the last
    step. Example: list(StepsByLength([5, 9, 7], step=3, seed=0)) == [1, 2, 0].
    """

    def __init__(self, lengths: Sequence[int], step: int, seed: int) -> None:
        """Take the examples' lengths in tokens, and the examples of an optimizer step."""
        self._lengths, self._step, self._seed = lengths, step, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch the next iteration is: each has an order of its own."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self._seed, self._epoch]).permutation(len(self)).tolist()
        for start in range(0, len(order), self._step):
            yield from sorted(
                order[start : start + self._step], key=self._lengths.__getitem__, reverse=True
            )


def _trainer_class() -> Any:
    """SFTTrainer whose loss weighs each target token."""
    from trl import SFTTrainer

    class WeightedTrainer(SFTTrainer):  # type: ignore[misc]
        loss_is_scaled_for_ga = True

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            """Steps of examples drawn at random, their micro-batches of like length."""
            return StepsByLength(
                [len(ids) for ids in self.train_dataset["input_ids"]],
                self.args.train_batch_size * self.args.gradient_accumulation_steps,
                self.args.seed,
            )

        def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
            """The micro-batches of one step, and the sum of their weights in place of a count."""
            samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
            return samples, sum(sample["weights"].sum() for sample in samples)

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            """This micro-batch's part of the step's weighted mean."""
            weights_BT = inputs.pop("weights")
            score = _score_fused if inputs["input_ids"].is_cuda else _score_targets
            log_probs_BL, place_L = score(model, inputs)
            weights_BL = weights_BT[:, place_L]
            return -(log_probs_BL * weights_BL).sum() / num_items_in_batch.to(model.device)

    return WeightedTrainer


def _score_fused(model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
    """(B, L) log-probabilities of next tokens, by TRL's fused head, and their positions: all."""
    outputs = model(**inputs, use_cache=False, fused_lm_head=True)
    return outputs.log_probs, slice(None)


def _score_targets(model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
    """The same where any example of the batch has loss: without Triton, TRL scores all positions.

    Answers end their examples and a batch's are of like length, so that few positions are left.
    """
    from factory.codes.gist import score_targets

    others = {key: value for key, value in inputs.items() if key != "labels"}
    return score_targets(model, inputs["labels"], **others)


def _lora_config(learner: _Learner, config: TrainConfig) -> Any:
    """Adapters on all linear layers but the head, and the code tokens' rows trained whole."""
    from peft import LoraConfig
    from peft.utils.other import TrainableTokensWrapper

    # TRL's fused head reads `lm_head.bias`, which PEFT's wrapper of the rows does not pass on.
    TrainableTokensWrapper.bias = property(
        lambda wrapper: getattr(wrapper.token_adapter.base_layer, "bias", None)
    )
    code_ids = _code_ids(learner) if config.codes is not None else []
    model = learner.model
    tables = [model.get_input_embeddings()]
    if not model.config.get_text_config().tie_word_embeddings:
        tables.append(model.get_output_embeddings())
    names = [name.split(".")[-1] for name, part in model.named_modules() if part in tables]
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules="all-linear",
        trainable_token_indices=dict.fromkeys(names, code_ids) if code_ids else None,
    )


def _two_rates(model: Any, config: TrainConfig) -> Any:
    """AdamW with `row_rate` times the learning rate for the code tokens' rows."""
    import torch

    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    rows = [p for name, p in trained if "trainable_tokens" in name]
    rest = [p for name, p in trained if "trainable_tokens" not in name]
    rate = config.learning_rate
    groups = [{"params": rest, "lr": rate}]
    if rows:
        groups.append({"params": rows, "lr": rate * config.row_rate})
    return torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)


def _save(
    learner: _Learner,
    job: TrainingJob,
    encoded: EncodedSet,
    given: _Given,
    figures: dict[str, Any],
) -> dict[str, Any]:
    """Write the folder aside, rename it, and return the final message."""
    from safetensors import SafetensorError

    partial = job.out.with_name(job.out.name + ".tmp")
    master = learner.model.dtype
    try:
        _clear(partial)
        partial.mkdir(parents=True)
        learner.model.to(learner.stored_dtype).save_pretrained(partial)
        learner.tokenizer.save_pretrained(partial)
        copy_processors(job.checkpoint, partial)
        if learner.codebook is not None:
            # What the next round embeds with are the weights as stored, rounding and all.
            learner.model.to(master)
            tools = [entry.tool for entry in learner.codebook.tools]
            still = learner.codebook.embedder or not learner.codebook.needs_documents
            documents_ND = None if still else _documents(learner, tools, job.config.codes)
            learner.codebook.refresh(documents_ND, seed=job.config.seed)
            learner.codebook.save(partial, learner.tokenizer, learner.turn.stop)
            if learner.reader.gist is not None:
                learner.reader.gist.save(partial / GIST_PATH)
        done = {
            "job": job.digest(),
            "fingerprint": fingerprint(partial),
            "num_examples": encoded.num_kept,
            "dropped": dict(encoded.dropped),
            "unlearnt": encoded.unlearnt,
            **figures,
            "codes": [asdict(row) for row in given.rows],
            "recoded": given.recoding.figures() if given.recoding is not None else None,
            "aliases": [asdict(row) for row in given.recoding.aliases] if given.recoding else [],
            "codebook": learner.codebook.summary() if learner.codebook else None,
        }
        (partial / DONE_FILE).write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
        _clear(job.out)
        partial.rename(job.out)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise DiskError(
            f"the checkpoint cannot be written: {error}",
            where=str(partial),
            remedy="free some space, then `factory round --resume`",
        ) from error
    return done


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _make_reporter(send: Send) -> Any:
    """A callback that sends one progress message a step."""
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):  # type: ignore[misc]
        started = 0.0

        def __init__(self) -> None:
            self.log: list[dict[str, Any]] = []

        def seconds(self) -> float:
            """Since training began."""
            return time.monotonic() - self.started

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.monotonic()

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any
        ) -> None:
            if "loss" not in logs:
                return
            if not math.isfinite(logs["loss"]):
                raise GateError(
                    f"training diverged: the loss of step {state.global_step} is {logs['loss']}",
                    remedy="lower train.learning_rate",
                )
            step = {
                "step": state.global_step,
                "steps": state.max_steps,
                "loss": logs["loss"],
                "learning_rate": logs["learning_rate"],
                "tokens": int(state.num_input_tokens_seen),
                "seconds": round(self.seconds(), 3),
            }
            self.log.append(step)
            send({"type": "progress", **step})

    return Reporter()


def main(channel: Channel, arguments: list[str]) -> None:
    """The child: `python -m factory.train '<job as JSON>'`."""
    # One GPU: with several, the trainer would wrap the model in DataParallel.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]
    job = TrainingJob.from_json(json.loads(arguments[0]))
    try:
        done = train(job, channel.send)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        traceback.print_exc()
        raise ChildError(f"training ran out of memory: {error!r}", remedy=NEED_LESS) from error
    channel.send({"type": "done", **done})


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether Python, a GPU or torch on the CPU had no memory to give."""
    from accelerate.utils.memory import should_reduce_batch_size
    from torch import OutOfMemoryError

    return isinstance(error, (MemoryError, OutOfMemoryError)) or should_reduce_batch_size(error)


if __name__ == "__main__":
    run_child(main)

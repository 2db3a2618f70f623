"""One round, in order: draw, score the parent, sample, judge, train, score the child, gate.

This file is the system in one sitting. Each step is skipped where the ledger says that it is done,
so a round that was killed anywhere continues with the step it was in; within sampling, with the
queries that have no sample yet. Sampling, training and scoring run in child processes that end
with their work. Steps 2-6 of the loop (tools, codes, calls, vote, verdict) are one coroutine a
query in factory/round/sampler.py; `judge` is the rules over the round as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from factory.codes.saving import SavedCodebook, load_codebook
from factory.domain.canon import to_json
from factory.domain.failures import DiskError, GateError, InputError, MissingError
from factory.domain.monitor import Monitor
from factory.domain.records import Candidate, Checkpoint, Example, ItemScore, Query, Tool
from factory.engines.base import Engine
from factory.engines.opening import open_engine
from factory.engines.serving import engine_settings
from factory.engines.trainable import check_trainable
from factory.judge.rulebook import Rulebook
from factory.judge.sample import Judge, Trail
from factory.judge.sets import judge_round
from factory.lab.home.world import home_stream
from factory.ledger import history
from factory.ledger.database import Ledger
from factory.ledger.history import AcceptedSample
from factory.ledger.lineage import base_checkpoint, make_checkpoint, next_checkpoint
from factory.ledger.rows import checkpoint_row, example_row, stage_row, tool_rows, training_row
from factory.ledger.tables import Batch, JudgementRow, RoundRow, SampleRow, VerdictRow, merge
from factory.round.draw import draw
from factory.round.rows import base_rows, code_rows
from factory.round.sampler import Sampler
from factory.score.base import Asked, Scorable, SelfServed, Setup
from factory.score.calls.asking import overall_weights
from factory.score.calls.kind import Calls
from factory.score.estimates import paired_delta
from factory.score.gate import Decision, gate
from factory.score.labelled import held_out_ids
from factory.score.loading import load_benchmarks
from factory.score.rows import scored_rows
from factory.train.curriculum import (
    called_together,
    documents_to_learn,
    own_examples,
    taught_by,
    tools_to_code,
    train_config,
    unlearnt_tools,
)
from factory.train.examples import read_examples, select_replay, tools_of, write_examples
from factory.train.job import TrainingJob, write_pairs, write_tools
from factory.train.run import run_training
from factory.workspace.folder import Workspace
from factory.workspace.machine import MAX_FULL_BYTES, disk_needed, installed_versions, weights_bytes
from factory.workspace.models import check_model_folder, fingerprint
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import Recipe, Resolved, load_stored_recipe, mend
from factory.workspace.settings import Settings, name_model

FLUSH_SECONDS = 1.0
"""Finished queries reach the ledger this often."""


FOLD_EVERY = 30
"""Flushes between two folds of the segments into the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """How a round ended."""

    number: int
    """The round."""
    promoted: bool
    """Whether the next round starts from this round's checkpoint."""
    reason: str
    """Why, in one sentence."""


@dataclass(slots=True, kw_only=True)
class Factory:
    """A workspace opened for a round: content loaded and checked, no model yet."""

    workspace: Workspace
    """Where everything is."""
    settings: Settings
    """factory.toml."""
    resolved: Resolved
    """The recipe in force."""
    prompts: Prompts
    """Compiled prompts."""
    rulebook: Rulebook
    """Loaded rules."""
    ledger: Ledger
    """The ledger, not held open."""
    monitor: Monitor
    """Where progress goes."""
    threads: int
    """CPU threads of each child."""
    pool: Sequence[Query] | None
    """Queries of the user's files; None is the home world's stream."""
    benchmarks: dict[str, Scorable]
    """Every benchmark of the recipe, the gate's dev set included."""
    held_out: dict[str, Scorable]
    """Benchmarks that nothing is trained on although no recipe scores them."""
    keep_model: bool = False
    """Whether the next round's model, which a flag gives, is written into factory.toml."""
    _bases: dict[str, str] = field(default_factory=dict, init=False)
    _base: Checkpoint | None = field(default=None, init=False)

    @property
    def recipe(self) -> Recipe:
        return self.resolved.recipe

    @property
    def all_benchmarks(self) -> tuple[Scorable, ...]:
        """Everything that no sample may hold."""
        return tuple((self.held_out | self.benchmarks).values())

    @property
    def asked(self) -> tuple[Asked, ...]:
        """The recipe's benchmarks that an engine is needed for."""
        return tuple(each for each in self.benchmarks.values() if isinstance(each, Asked))

    async def run_round(self, num_queries: int | None) -> RoundResult:
        """Run the next round, or continue the open one. Raises FactoryError."""
        this = self._resume()
        if this is None or "train" not in this.stages_done:
            self.monitor.stage("check the model")
            await check_trainable(Path((this.checkpoint if this else self.next_checkpoint()).path))
        this = this or self._start(num_queries or self.recipe.num_queries)
        parent = this.checkpoint
        async with self._serve(parent, this.number, needed=self._parent_is_needed(this)) as engine:
            await self._score(engine, parent, this, "score parent")
            await self._sample(engine, this)
        await self._score(None, parent, this, "score parent")
        self._judge(this)
        trained = await self._train(this)
        if isinstance(trained, Checkpoint):
            async with self._serve(
                trained, this.number, needed=not self._all_answered(trained)
            ) as engine:
                await self._score(engine, trained, this, "score new")
            await self._score(None, trained, this, "score new")
        return self._gate(this, trained)

    # Starting ------------------------------------------------------------------------------

    def _resume(self) -> history.OpenRound | None:
        """The open round, with the recipe it started with in force.

        Flags may still change how it trains and scores. Raises InputError where prompts or rules
        have changed and samples are missing: one judgement has one set of rules.
        """
        this = history.open_round(self.ledger)
        if this is None:
            return None
        given = self.resolved
        self.resolved = mend(load_stored_recipe(this.recipe_name, this.recipe_json), given)
        self.benchmarks = load_benchmarks(self.workspace, self.recipe)
        self._bases.clear()
        if "sample" not in this.stages_done and this.content_sha != self._content_sha():
            raise InputError(
                f"prompts or rules have changed since round {this.number} began",
                where=str(self.workspace.root),
                remedy="undo the edit to continue, or end it: `factory round --abandon`",
            )
        base = self.base_checkpoint()
        located = base if this.checkpoint.id == base.id else self.locate(this.checkpoint)
        this = replace(this, checkpoint=located)
        check_model_folder(Path(located.path))
        pending = len(history.pending_queries(self.ledger, this.number))
        self.monitor.note(
            f"continuing round {this.number}: {pending} queries without a sample; its queries, "
            "model and recipe stay, --set train.…, codes.… and score.… apply"
        )
        return this

    def abandon(self) -> int:
        """End the open round as it is, without training; its number. Raises InputError."""
        this = history.open_round(self.ledger)
        if this is None:
            raise InputError("no round is open", remedy="factory round starts one")
        detail = {"reason": "abandoned by the user"}
        self._finish(this.number, "gate", datetime.now(UTC), detail=detail)
        return this.number

    def _content_sha(self) -> str:
        return f"{self.prompts.set_sha()} {self.rulebook.sha}"

    def locate(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with an absolute path; those of the workspace are stored relative."""
        return replace(checkpoint, path=str(self.workspace.root / checkpoint.path))

    def _start(self, num_queries: int) -> history.OpenRound:
        """Draw the queries and write the round's first rows, all in one append."""
        base = self.base_checkpoint()
        parent = self.next_checkpoint(self.monitor.note)
        check_model_folder(Path(parent.path))
        self._check_machine(Path(parent.path))
        number = history.last_round(self.ledger) + 1
        self.monitor.stage("draw")
        queries = draw(self._pool(), num_queries, history.drawn_ids(self.ledger))
        if self.keep_model and name_model(self.workspace, self.settings.model):
            self.monitor.note(
                f"{self.workspace.marker} names {self.settings.model} now: every command goes on "
                "with it"
            )
        if len(queries) < num_queries:
            self.monitor.note(f"the pool has {len(queries)} fresh queries, not {num_queries}")
        now = datetime.now(UTC)
        judgement = 1
        self.ledger.append(
            {
                **self._judge_drawn(queries, self._make_judge(number, judgement)),
                "round": [self._round_row(number, parent, len(queries), now)],
                "judgement": [self._judgement_row(judgement, number, now)],
                "query": [
                    {"query_id": q.id, "text": q.text, "source": q.source, "added_at": now}
                    for q in queries
                ],
                "draw": [
                    {"round": number, "position": position, "query_id": query.id}
                    for position, query in enumerate(queries)
                ],
                **self._base_rows(base),
                "stage": [stage_row(number, "draw", now, {"queries": len(queries)})],
            }
        )
        self.ledger.fold()
        this = history.open_round(self.ledger)
        assert this is not None and this.number == number
        return replace(this, checkpoint=parent)

    def _make_judge(self, number: int, judgement: int) -> Judge:
        return Judge(
            rulebook=self.rulebook,
            vote=self.recipe.vote,
            round_number=number,
            judgement=judgement,
        )

    def _judge_drawn(self, queries: Sequence[Query], judge: Judge) -> Batch:
        """Rows of the queries that a set rule of stage draw finds; nothing is asked for rejects."""
        drawn = [Candidate(query=query) for query in queries]
        past = history.accepted_before(self.ledger, judge.round_number)
        found = judge_round(self.rulebook.rules, drawn, past, self.all_benchmarks, stage="draw")
        judged: list[VerdictRow] = []
        samples: list[SampleRow] = []
        for query in queries:
            verdicts = found.get(query.id, [])
            stopped = Trail(judge=judge, query=query).stop_at_draw(verdicts)
            judged += judge.verdict_rows(query.id, verdicts)
            samples += stopped["sample"] if stopped else []
        return {"verdict": judged, "sample": samples}

    def base_checkpoint(self) -> Checkpoint:
        """The model of the settings, as the checkpoint that starts the lineage; read once."""
        if self._base is None:
            self._base = base_checkpoint(self.workspace, self.settings, self.ledger)
        return self._base

    def next_checkpoint(self, notify: Callable[[str], None] | None = None) -> Checkpoint:
        """The parent of the next round, with an absolute path."""
        return next_checkpoint(self.workspace, self.ledger, self.base_checkpoint(), notify)

    def _pool(self) -> Iterator[Query]:
        return home_stream() if self.pool is None else iter(self.pool)

    def _check_machine(self, model: Path) -> None:
        """Refuse what this machine cannot do. Raises DiskError, MissingError."""
        self.workspace.state.mkdir(parents=True, exist_ok=True)
        free, needed = shutil.disk_usage(self.workspace.state).free, disk_needed(model)
        if free < needed:
            raise DiskError(
                f"{free / 2**30:.2f} GiB are free; a round of this model needs "
                f"{needed / 2**30:.2f}",
                where=str(self.workspace.state),
                remedy="free some space, or `factory init` a workspace on another disk",
            )
        if self.recipe.train.method == "full" and weights_bytes(model) > MAX_FULL_BYTES:
            raise MissingError(
                f"training all weights of a model of {weights_bytes(model) / 2**30:.1f} GiB takes "
                "about eight times its size in memory",
                where=f"recipe {self.resolved.name}",
                remedy="--recipe base, or --set train.method=lora",
            )

    def _round_row(
        self, number: int, parent: Checkpoint, num_queries: int, now: datetime
    ) -> RoundRow:
        return {
            "round": number,
            "started_at": now,
            "checkpoint_id": parent.id,
            "checkpoint_fingerprint": parent.fingerprint,
            "recipe_name": self.resolved.name,
            "recipe_json": self.recipe.model_dump_json(),
            "recipe_sha": self.recipe.sha,
            "prompts_sha": self.prompts.set_sha(),
            "rules_sha": self.rulebook.sha,
            "seed": self.recipe.seed,
            "num_queries": num_queries,
            "package_version": metadata.version("tool-factory"),
            "versions_json": to_json(installed_versions()),
        }

    def _judgement_row(self, judgement: int, number: int, now: datetime) -> JudgementRow:
        return {
            "judgement": judgement,
            "round": number,
            "rules_sha": self.rulebook.sha,
            "made_at": now,
            "note": "while sampling",
        }

    def _base_rows(self, base: Checkpoint) -> Batch:
        """The base checkpoint's rows, where the ledger does not know it yet."""
        known = self.ledger.query(
            "select 1 from checkpoint where checkpoint_id = ?", [base.id], limit=1
        ).rows
        return {} if known else base_rows(base, load_codebook(Path(base.path)))

    # Scoring and sampling ------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _serve(
        self, checkpoint: Checkpoint, number: int, *, needed: bool
    ) -> AsyncIterator[Engine | None]:
        """An engine that serves the checkpoint; None where nothing is left to ask it."""
        if not needed:
            yield None
            return
        self.monitor.stage(f"start engine on {checkpoint.id}")
        started = datetime.now(UTC)
        waiting = [x for x in self.asked if not self._is_scored(checkpoint, x)]
        num_engines = max((x.num_engines(self.setup, checkpoint) for x in waiting), default=1)
        engine = await open_engine(
            checkpoint,
            settings=engine_settings(self.settings, self.threads, num_engines),
            log_folder=self._log_folder(number),
            notify=self.monitor.note,
        )
        self._finish(number, "start engine", started)
        try:
            yield engine
        finally:
            await engine.close()

    def _log_folder(self, number: int) -> Path:
        folder = self.workspace.state / "logs" / f"r{number}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def setup(self) -> Setup:
        """What scoring may use."""
        return Setup(
            workspace=self.workspace,
            settings=self.settings,
            prompts=self.prompts,
            max_tokens=self.recipe.score.max_tokens,
            notify=self.monitor.note,
            progress=lambda done, total: self.monitor.progress(done, total=total),
        )

    def _parent_is_needed(self, this: history.OpenRound) -> bool:
        return "sample" not in this.stages_done or not self._all_answered(this.checkpoint)

    def _all_answered(self, checkpoint: Checkpoint) -> bool:
        """Whether no benchmark needs an engine for the checkpoint any more."""
        return all(self._is_scored(checkpoint, each) for each in self.asked)

    def _is_scored(self, checkpoint: Checkpoint, benchmark: Scorable) -> bool:
        basis = self._basis(benchmark)
        return history.is_scored(self.ledger, checkpoint.id, benchmark.name, basis)

    def _basis(self, benchmark: Scorable) -> str:
        """Asked for at every step of scoring, worked out once: a judge's weights are in some."""
        if benchmark.name not in self._bases:
            self._bases[benchmark.name] = benchmark.basis(self.setup)
        return self._bases[benchmark.name]

    def _finish(
        self,
        number: int,
        stage: str,
        started: datetime,
        rows: Batch | None = None,
        detail: Mapping[str, object] | None = None,
    ) -> None:
        """Write a stage's rows together with its end, and fold what is there into the file."""
        self.ledger.append({**(rows or {}), "stage": [stage_row(number, stage, started, detail)]})
        self.ledger.fold()

    async def _score(
        self, engine: Engine | None, checkpoint: Checkpoint, this: history.OpenRound, stage: str
    ) -> None:
        """Score the checkpoint on every benchmark that the ledger has no score of.

        With an engine those that ask one, without those that read the checkpoint's folder, so that
        no two models are in memory at once.
        """
        for name, benchmark in self.benchmarks.items():
            if isinstance(benchmark, Asked) is (engine is None):
                continue
            if self._is_scored(checkpoint, benchmark):
                continue
            self.monitor.stage(f"{stage} on {name}", len(benchmark.items) or None)
            started = datetime.now(UTC)
            if isinstance(benchmark, Asked):
                assert engine is not None
                items = await benchmark.score(self.setup, checkpoint, engine)
            else:
                assert isinstance(benchmark, SelfServed)
                items = await benchmark.score(self.setup, checkpoint)
            rows = self.score_rows(
                this.number, checkpoint.id, benchmark, items, self._basis(benchmark)
            )
            self._finish(this.number, f"{stage}: {name}", started, rows)

    def score_rows(
        self, number: int, system: str, benchmark: Scorable, items: Sequence[ItemScore], basis: str
    ) -> Batch:
        """Rows of a score, with the benchmark's questions where the ledger has not got them."""
        asked = history.knows_questions(self.ledger, benchmark.name, basis)
        return scored_rows(number, system, benchmark, items, basis, with_questions=not asked)

    async def _sample(self, engine: Engine | None, this: history.OpenRound) -> None:
        """Every pending query to its sample, a window of them in flight."""
        if engine is None or "sample" in this.stages_done:
            return
        queries = history.pending_queries(self.ledger, this.number)
        self.monitor.stage("sample", len(queries))
        started = datetime.now(UTC)
        sampler = Sampler(
            engine=engine,
            prompts=self.prompts,
            recipe=self.recipe,
            judge=self._make_judge(this.number, this.judgement),
            codebook=self._codebook(this),
        )
        await self._sample_window(sampler, queries)
        self._finish(this.number, "sample", started)

    def _codebook(self, this: history.OpenRound) -> SavedCodebook | None:
        """The parent's codes; None where it has none, or the recipe wants none."""
        if self.recipe.codes.coder == "none":
            return None
        return load_codebook(Path(this.checkpoint.path))

    async def _sample_window(self, sampler: Sampler, queries: Sequence[Query]) -> None:
        window = asyncio.Semaphore(self.recipe.window)

        async def run(query: Query) -> Batch:
            async with window:
                return await sampler.run(query)

        tally: dict[str, int] = {}
        tasks = [asyncio.ensure_future(run(query)) for query in queries]
        writer = _Writer(self.ledger)
        flusher = asyncio.ensure_future(writer.flush_regularly())
        try:
            for done, finished in enumerate(asyncio.as_completed(tasks), 1):
                rows = await finished
                status = rows["sample"][0]["status"]
                tally[status] = tally.get(status, 0) + 1
                writer.add(rows)
                detail = ", ".join(f"{count} {name}" for name, count in sorted(tally.items()))
                self.monitor.progress(done, detail)
        finally:
            flusher.cancel()
            for task in tasks:
                task.cancel()
            writer.flush()

    def _judge(self, this: history.OpenRound) -> None:
        """The rules over what was sampled, as a whole; once, and before anything is trained."""
        if {"judge", "train"} & this.stages_done:
            return
        self.monitor.stage("judge")
        started = datetime.now(UTC)
        candidates = history.round_candidates(self.ledger, this.number, this.judgement)
        past = history.accepted_before(self.ledger, this.number)
        found = judge_round(self.rulebook.rules, candidates, past, self.all_benchmarks)
        judge = self._make_judge(this.number, this.judgement)
        rows = [row for query, each in found.items() for row in judge.verdict_rows(query, each)]
        num_rejected = sum(any(v.severity == "reject" for v in each) for each in found.values())
        detail = {
            "candidates": len(candidates),
            "rejected": num_rejected,
            "warned": len(found) - num_rejected,
            "rules_sha": self.rulebook.sha,
        }
        self._finish(this.number, "judge", started, {"verdict": rows}, detail)

    # Training and the gate -----------------------------------------------------------------

    async def _train(self, this: history.OpenRound) -> Checkpoint | str:
        """The checkpoint trained on what was accepted, or why there is none."""
        folder = history.checkpoint_folder(self.workspace.state, this.number)
        if "train" not in this.stages_done:
            accepted = history.accepted_samples(self.ledger, this.number)
            needed = self.recipe.train.min_accepted
            if len(accepted) < needed:
                return (
                    f"not trained: {len(accepted)} accepted samples, train.min_accepted is {needed}"
                )
            try:
                mark = await self._run_training(this, accepted, folder)
            except GateError as error:
                return f"not trained: {error.what}"
        else:
            check_model_folder(folder)
            mark = fingerprint(folder)
        return make_checkpoint(f"r{this.number}", folder, mark)

    async def _run_training(
        self, this: history.OpenRound, accepted: Sequence[AcceptedSample], folder: Path
    ) -> str:
        """Train into `folder` and record it; the fingerprint of the new weights."""
        started = datetime.now(UTC)
        self.monitor.stage("prepare training")
        codebook = self._codebook(this)
        held_out = held_out_ids(self.all_benchmarks)
        accepted = [sample for sample in accepted if sample.query.id not in held_out]
        unlearnt = unlearnt_tools(self.ledger, this.checkpoint.id, self.recipe)
        documents = documents_to_learn(unlearnt, codebook, self.recipe)
        if documents:
            self.monitor.stage(f"prepare training, with {len(documents)} documents to learn")
        examples = own_examples(
            accepted, documents, codebook, self.prompts, self.recipe, this.number
        )
        job = self._job(this, accepted, examples, codebook, folder)
        result = await run_training(
            job,
            threads=self.threads,
            log=self._log_folder(this.number) / "train.log",
            on_progress=lambda progress: self.monitor.progress(
                progress.step, f"loss {progress.loss:.3f}", progress.steps
            ),
            on_phase=self.monitor.stage,
            max_restarts=self.settings.engine.max_restarts,
            notify=self.monitor.note,
        )
        # A document that was left out is no example: the next round takes it up again.
        left = {tool.id for tool in unlearnt}.intersection(result.unlearnt)
        examples = [e for e in examples if e.kind != "code" or left.isdisjoint(tools_of(e))]
        learnt = {tool_id for e in examples if e.kind == "code" for tool_id in tools_of(e)}
        num_learnt = len({tool.id for tool in unlearnt} & learnt)
        rows: Batch = {
            "training": [training_row(this.number, step) for step in result.log],
            "example": [example_row(this.number, example) for example in examples],
            "tool": tool_rows(this.number, (t for each in accepted for t in each.tools), "round"),
            **code_rows(this.number, result),
        }
        detail = {
            "examples": result.num_examples,
            "dropped": result.dropped,
            "documents": {"learnt": num_learnt, "waiting": len(unlearnt) - num_learnt},
            "tokens": result.num_tokens,
            "restarts": result.restarts,
            "recoded": result.recoded,
        }
        self._finish(this.number, "train", started, rows, detail)
        shutil.rmtree(job.examples.parent, ignore_errors=True)
        return result.fingerprint

    def _job(
        self,
        this: history.OpenRound,
        accepted: Sequence[AcceptedSample],
        examples: Sequence[Example],
        codebook: SavedCodebook | None,
        folder: Path,
    ) -> TrainingJob:
        """The training job as files: examples with replay, and the tools that need a code."""
        train = self.recipe.train
        replay = select_replay(
            taught_by(self.recipe, self._seed_examples()),
            taught_by(
                self.recipe,
                history.earlier_examples(
                    self.ledger, this.number, held_out_ids(self.all_benchmarks)
                ),
            ),
            share=train.replay,
            limit=train.replay_limit,
            history=train.history,
            seed=self.recipe.seed,
        )
        work = folder.parent / f"{folder.name}.job"
        work.mkdir(parents=True, exist_ok=True)
        write_examples(work / "examples.jsonl", [*examples, *replay])
        new_tools: list[Tool] = []
        if self.recipe.codes.coder != "none":
            new_tools = tools_to_code(history.imported_tools(self.ledger), accepted, codebook)
        write_tools(work / "new_tools.jsonl", new_tools)
        if self.recipe.codes.coder == "quantized" and self.recipe.codes.quantized.graph:
            pairs = history.called_pairs(self.ledger, this.number)
            written = history.written_tools(self.ledger)
            pairs = called_together(pairs, written, accepted, new_tools, codebook)
            write_pairs(work / "pairs.jsonl", pairs)
        return TrainingJob(
            checkpoint=Path(this.checkpoint.path),
            out=folder,
            examples=work / "examples.jsonl",
            new_tools=work / "new_tools.jsonl",
            workspace=self.workspace.root,
            config=train_config(
                self.recipe,
                this.number,
                self.settings.engine.dtype,
                history.last_codebook_version(self.ledger) + 1,
            ),
        )

    def _seed_examples(self) -> list[Example]:
        """Examples for replay: the settings' file, else the base model's own, if any."""
        if self.settings.replay:
            return read_examples(self.workspace.root / self.settings.replay)
        path = self.workspace.model_folder(self.settings.model) / "replay.jsonl"
        return read_examples(path) if path.exists() else []

    def _gate(self, this: history.OpenRound, trained: Checkpoint | str) -> RoundResult:
        """Promote the new checkpoint or keep the parent, and end the round."""
        now = datetime.now(UTC)
        rows: Batch = {}
        if isinstance(trained, str):
            decision = Decision(False, trained)
        else:
            decision = self._decide(this, trained)
            stored = replace(trained, path=self._relative(trained.path))
            parent, promote = this.checkpoint.id, decision.promote
            rows["checkpoint"] = [
                checkpoint_row(stored, this.number, parent, promote, decision.reason, now)
            ]
        self._finish(this.number, "gate", now, rows, {"reason": decision.reason})
        return RoundResult(number=this.number, promoted=decision.promote, reason=decision.reason)

    def _relative(self, path: str) -> str:
        """The path below the workspace's root, so that the workspace may be moved."""
        root = self.workspace.root
        return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path

    def _decide(self, this: history.OpenRound, trained: Checkpoint) -> Decision:
        dev = self.benchmarks.get(self.recipe.score.dev)
        if dev is None:
            return Decision(True, "promoted without a gate: score.dev is empty")
        assert isinstance(dev, Calls), "load_benchmarks lets no other kind decide"
        basis = self._basis(dev)
        before = history.load_items(self.ledger, this.checkpoint.id, dev.name, basis)
        after = history.load_items(self.ledger, trained.id, dev.name, basis)
        return gate(
            dev.summary(this.checkpoint.id, before),
            dev.summary(trained.id, after),
            paired_delta(before, after, overall_weights(dev.benchmark)),
            tolerance=self.recipe.score.tolerance,
        )


class _Writer:
    """Collects finished queries and appends them to the ledger every second."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._rows: list[Batch] = []

    def add(self, rows: Batch) -> None:
        self._rows.append(rows)

    def flush(self) -> None:
        rows, self._rows = self._rows, []
        self._ledger.append(merge(rows))

    async def flush_regularly(self) -> None:
        """Flush every FLUSH_SECONDS, fold after every FOLD_EVERY flushes, until cancelled."""
        for second in itertools.count(1):
            await asyncio.sleep(FLUSH_SECONDS)
            self.flush()
            if second % FOLD_EVERY == 0:
                self._ledger.fold()

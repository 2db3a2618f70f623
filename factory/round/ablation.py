"""An ablation: variants from one parent, each seed in a workspace of its own, kept and continued.

A trial's workspace has the prompts, rules and benchmarks of the user's, the variant's recipe as
rounds/ablation.toml, and a ledger of its own, so that whoever wants to know why asks it as any
other. Which steps are done its ledger says: a trial that was killed goes on within the step it was
in. The user's workspace is only read.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from factory.domain.bounded import DATA, read_text
from factory.domain.canon import canonical_json, digest, to_json
from factory.domain.failures import FactoryError, InputError
from factory.domain.monitor import Monitor
from factory.domain.records import Call, Checkpoint, Query, Tool
from factory.engines.perplexity import measure_perplexity
from factory.engines.trainable import check_planned
from factory.judge.keys import make_key
from factory.judge.rulebook import Rulebook
from factory.lab.ablation.plan import (
    PARENT,
    REQUESTS,
    AblationPlan,
    Settled,
    absolute,
    find_file,
    load_scored,
    refuse_taken,
    write_home_sets,
)
from factory.lab.ablation.results import (
    AblationTrial,
    StepFigures,
    items_path,
    read_marks,
    write_marks,
)
from factory.lab.ablation.standings import AS_IT_IS, Ablated
from factory.lab.home.world import fresh_item
from factory.lab.trials.keeping import Deadline, Report, run_trials
from factory.ledger import history
from factory.ledger.database import Source
from factory.ledger.lineage import base_checkpoint, next_checkpoint
from factory.ledger.lock import WorkspaceLock
from factory.lessons.files import read_lessons
from factory.lessons.logs import read_pool
from factory.round.factory import Factory, load_factory
from factory.round.round import run_round
from factory.round.teach import plan_lesson, run_lesson
from factory.score.base import Scorable, Setup
from factory.score.evaluate import evaluate_all
from factory.workspace.checking import read_toml
from factory.workspace.folder import CONTENT_FOLDERS, MARKER, Workspace, file_sha, shipped_root
from factory.workspace.models import fingerprint
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import Recipe, load_recipe
from factory.workspace.settings import SELF, Settings, load_settings

FORMAT = 1
"""Of what a trial is."""
RECIPE = "ablation"
"""Its recipe in its workspace: rounds/ablation.toml."""
TEMPLATE = ".template"
"""Folder, beside the trials, of what all their workspaces have in common."""
MADE = ".made-by-ablate"
"""A file that says that the folder may be written anew."""
STRIDE = 512
"""Tokens between windows of the perplexity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPlan:
    """One variant with one seed, to be run. Example: see plan_trials."""

    settled: Settled
    seed: int
    digest: str
    """Of what decides it, its name left out."""

    @property
    def name(self) -> str:
        return f"{self.settled.name}, seed {self.seed}" if self.settled.steps else self.settled.name

    @property
    def folder(self) -> str:
        """Name of its workspace."""
        short = re.sub(r"[^\w=+-]+", "_", self.settled.name)[:60]
        return f"{short}-{self.seed}-{self.digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """What is run, on what, with how much work."""

    out: Path
    """Folder of the trials."""
    template: Workspace
    plan: AblationPlan
    variants: tuple[Settled, ...]
    parents: tuple[Settled, ...]
    """Those models as they are, of which variants start."""
    trials: tuple[TrialPlan, ...]
    """The parents' first."""
    benchmarks: Mapping[str, Scorable]
    pool: tuple[Query, ...] | None
    """Requests of the rounds; None is the home world's stream."""
    text: str
    """Plain text whose perplexity is measured; empty is none."""
    deadline: Deadline = field(default_factory=lambda: Deadline(None))
    discard: bool = False
    """Whether the checkpoints of finished trials are deleted."""

    def of(self, settled: Settled) -> list[TrialPlan]:
        """Its trials, by seed."""
        return [trial for trial in self.trials if trial.settled is settled]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What an ablation came to."""

    rows: tuple[Ablated, ...]
    """Parents, then variants."""
    failed: Mapping[str, FactoryError]
    unfinished: int
    """Trials that were not started, or not ended, for want of time."""


def prepare(
    plan: AblationPlan,
    variants: Sequence[Settled],
    workspace: Workspace,
    settings: Settings,
    out: Path,
    monitor: Monitor,
    *,
    seeds: int = 0,
    seconds: float | None = None,
    discard: bool = False,
) -> Ablation:
    """Read and check everything that the trials are made of; nothing is run yet.

    Raises FactoryError: a benchmark that cannot be scored, requests or a text that are not there.
    """
    refuse_taken(plan, workspace)
    template = _write_template(plan, workspace, settings, out)
    benchmarks = load_scored(plan, template, workspace.root)
    pool = _read_pool(plan, workspace, settings)
    text = _read_text(plan, workspace, benchmarks)
    parents = _parents(variants)
    shared = [
        FORMAT,
        Prompts.load(template).set_sha(),
        digest(text),
        settings.engine.model_dump(include={"backend", "dtype", "max_model_len"}),
    ]
    asked = "" if pool is None else digest(canonical_json([_known_by(query) for query in pool]))
    models = {each.model: template.model_folder(each.model) for each in parents}
    weights = {model: fingerprint(folder) for model, folder in models.items()}
    own = {model: folder / "replay.jsonl" for model, folder in models.items()}
    replays = {m: workspace.root / settings.replay if settings.replay else own[m] for m in own}

    setup = Setup.load(template, settings, monitor)
    bases = [(name, benchmark.basis(setup)) for name, benchmark in benchmarks.items()]

    def decide(settled: Settled) -> list[object]:
        """What decides a variant's trials besides their seed."""
        if not settled.steps:
            return [*shared, weights[settled.model], *bases]
        replay = replays[settled.model]
        return [
            *(*shared, weights[settled.model], *bases),
            Rulebook.load(template, settled.rules).sha,
            [_sha_of(path) for path in settled.teach],
            settled.rounds,
            settled.gold,
            asked,
            file_sha(replay) if replay.exists() else "",
        ]

    decided = {id(settled): decide(settled) for settled in (*parents, *variants)}

    def make(settled: Settled, seed: int) -> TrialPlan:
        known = [*decided[id(settled)]]
        if settled.steps:
            known.append(settled.with_seed(seed).known_by())
        return TrialPlan(settled=settled, seed=seed, digest=digest(canonical_json(known), 16))

    return Ablation(
        out=out,
        template=template,
        plan=plan,
        variants=tuple(variants),
        parents=parents,
        trials=(
            *(make(parent, 0) for parent in parents),
            *(
                make(settled, seed)
                for seed in range(seeds or plan.seeds)
                for settled in variants
                if seed == 0 or settled.steps
            ),
        ),
        benchmarks=benchmarks,
        pool=pool,
        text=text,
        deadline=Deadline(seconds),
        discard=discard,
    )


def check_parents(ablation: Ablation) -> None:
    """Raise FactoryError for a model that variants would train and a round cannot work with."""
    prompts, engine = Prompts.load(ablation.template), load_settings(ablation.template).engine
    for model in sorted({settled.model for settled in ablation.variants if settled.steps}):
        check_planned(ablation.template.model_folder(model), prompts, engine)


async def ablate(ablation: Ablation, monitor: Monitor, report: Report) -> Ran:
    """Run every trial that `ablation.out` does not have yet; one that fails stops no other."""
    plans = {trial.digest: trial for trial in reversed(ablation.trials)}
    names = {trial.digest: plans[trial.digest].name for trial in ablation.trials}

    def read(row: dict[str, Any]) -> AblationTrial | None:
        there = items_path(ablation.out, row["digest"]).exists()
        return AblationTrial.from_row(row) if there else None

    async def run(mark: str) -> AblationTrial | None:
        return await _Run(ablation, plans[mark], monitor).run()

    def discard(mark: str) -> None:
        folder = _workspace_of(ablation, plans[mark]).state / "checkpoints"
        shutil.rmtree(folder, ignore_errors=True)

    course = await run_trials(
        names,
        ablation.out,
        read,
        run,
        report,
        deadline=ablation.deadline,
        discard=discard if ablation.discard else None,
    )
    return Ran(
        rows=tuple(_rows(ablation, course.trials)),
        failed=course.failed,
        unfinished=course.unfinished,
    )


def _rows(ablation: Ablation, trials: Mapping[str, AblationTrial]) -> Iterable[Ablated]:
    def row(settled: Settled, parent: Ablated | None) -> Ablated:
        found = [trials[plan.digest] for plan in ablation.of(settled) if plan.digest in trials]
        return Ablated(
            name=settled.name,
            settled=settled if parent else None,
            trials=tuple(found),
            marks=tuple(read_marks(items_path(ablation.out, trial.digest)) for trial in found),
            parent=parent if parent and parent.trials else None,
        )

    parents = {settled.model: row(settled, None) for settled in ablation.parents}
    yield from parents.values()
    for settled in ablation.variants:
        yield row(settled, parents[settled.model])


def _parents(variants: Sequence[Settled]) -> tuple[Settled, ...]:
    """Each model that variants start from, as a variant of which nothing is made."""
    firsts = {settled.model: settled for settled in reversed(variants)}
    several = len(firsts) > 1
    return tuple(
        replace(
            firsts[model],
            name=f"{PARENT} {Path(model).name}" if several else PARENT,
            teach=(),
            rounds=0,
            gold=False,
            published=(),
        )
        for model in dict.fromkeys(settled.model for settled in variants)
    )


# -- what trials share ---------------------------------------------------------------------------


def _write_template(
    plan: AblationPlan, workspace: Workspace, settings: Settings, out: Path
) -> Workspace:
    """A workspace with the own content of the user's, without models and ledger."""
    template = Workspace((out / TEMPLATE).resolve())
    if template.root.exists() and not (template.root / MADE).is_file():
        raise InputError(
            "the folder was not made by factory ablate",
            where=str(template.root),
            remedy="name another --out",
        )
    shutil.rmtree(template.root, ignore_errors=True)
    template.root.mkdir(parents=True)
    (template.root / MADE).touch()
    _write_marker(workspace.marker, template.marker, _own_values(workspace, settings))
    for folder in CONTENT_FOLDERS:
        if workspace.root == shipped_root() or not (workspace.root / folder).is_dir():
            continue
        recipes_only = _others_than_recipes if folder == "rounds" else None
        shutil.copytree(workspace.root / folder, template.root / folder, ignore=recipes_only)
    for path, file in workspace.walk("eval", ".toml"):
        if path.count("/") == 1:
            _settle_paths(path, file, workspace, template)
    (template.root / "eval").mkdir(exist_ok=True)
    write_home_sets(plan, template)
    return template


def _others_than_recipes(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(".toml")]


def _settle_paths(path: str, file: Path, workspace: Workspace, template: Workspace) -> None:
    """Write a definition whose paths were relative to the user's workspace with absolute ones."""
    import tomlkit

    read_toml(file)  # tomlkit has no bound of depth
    table = tomlkit.parse(read_text(file))
    settled = absolute(table, workspace.root)
    if changed := {key: value for key, value in settled.items() if value != table[key]}:
        table.update(changed)
        (template.root / path).parent.mkdir(exist_ok=True)
        (template.root / path).write_text(tomlkit.dumps(table), encoding="utf-8")


def _read_pool(
    plan: AblationPlan, workspace: Workspace, settings: Settings
) -> tuple[Query, ...] | None:
    files = [each for each in plan.requests or settings.queries if each != SELF]
    if not files and SELF in settings.queries:
        raise InputError(
            "every variant is to have the same requests, and each would write its own",
            remedy="name files: `requests` of the plan, or `queries` of factory.toml",
        )
    if not files:
        return None
    found = [find_file(workspace, each, "requests") for each in files]
    pool = read_pool(found, plan.field, wanted=sys.maxsize)
    if pool.bad:
        raise InputError(
            f"{pool.bad.total} lines of the requests cannot be used: {pool.bad[0].cause}",
            where=pool.bad[0].where,
            remedy="every variant is to have the same requests: mend these, or leave them out",
        )
    return tuple(pool.queries)


def _known_by(query: Query) -> object:
    """What a round is asked; with the tools and calls of a log, where it has one."""
    if query.log is None:
        return query.text
    calls = [[call.name, call.arguments] for call in query.log.calls]
    return [query.text, [tool.id for tool in query.log.tools], calls]


def _read_text(plan: AblationPlan, workspace: Workspace, benchmarks: Mapping[str, Scorable]) -> str:
    if plan.text == REQUESTS:
        return "\n".join(item.query for each in benchmarks.values() for item in each.items)
    if not plan.text:
        return ""
    file = find_file(workspace, plan.text, "text")
    try:
        text = read_text(file, most=DATA)
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except InputError as error:
        raise InputError(
            f"the text {error.what}",
            where=str(file),
            remedy=f"give a file in UTF-8, or {REQUESTS!r}",
        ) from error


def _sha_of(path: Path) -> str:
    """Of a file, or of all files of a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return digest(canonical_json([file_sha(file) for file in files if file.is_file()]))


def _workspace_of(ablation: Ablation, trial: TrialPlan) -> Workspace:
    return Workspace((ablation.out / trial.folder).resolve())


# -- one trial -----------------------------------------------------------------------------------


class _Run:
    """A trial from its workspace to its figures."""

    def __init__(self, ablation: Ablation, trial: TrialPlan, monitor: Monitor) -> None:
        self._ablation, self._trial, self._monitor = ablation, trial, monitor
        self._workspace = _workspace_of(ablation, trial)

    async def run(self) -> AblationTrial | None:
        """The finished trial; None where the time was over before its last step."""
        started = time.monotonic()
        self._make_workspace()
        steps: list[StepFigures] = []
        marks = {}
        with WorkspaceLock(self._workspace.state):
            for index, step in enumerate(self._trial.settled.steps or (AS_IT_IS,)):
                if index and self._ablation.deadline.is_over:
                    return None
                factory = self._load()
                factory.ledger.fold()
                if self._trial.settled.steps:
                    await self._do(factory, index + 1, step)
                checkpoint, figures = self._read(factory, index + 1, step)
                measured = await evaluate_all(
                    factory.setup, list(self._ablation.benchmarks.values()), checkpoint
                )
                for name, each in zip(self._ablation.benchmarks, measured, strict=True):
                    marks[index, name] = each.items
                perplexity = await self._perplexity(factory, checkpoint)
                steps.append(replace(figures, perplexity=perplexity))
        write_marks(items_path(self._ablation.out, self._trial.digest), marks)
        return AblationTrial(
            variant=self._trial.settled.name,
            seed=self._trial.seed,
            steps=tuple(steps),
            folder=self._trial.folder,
            digest=self._trial.digest,
            wall=round(time.monotonic() - started, 1),
        )

    def _make_workspace(self) -> None:
        """Made whole or not at all; one that is there is gone on with."""
        root, trial = self._workspace.root, self._trial
        if root.exists():
            return
        partial = root.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(self._ablation.template.root, partial)
        _write_recipe(partial / "rounds" / f"{RECIPE}.toml", trial.settled.with_seed(trial.seed))
        values = {"recipe": RECIPE, "model": trial.settled.model, "queries": []}
        own = {**values, "rules": dict(trial.settled.rules)}
        _write_marker(partial / MARKER, partial / MARKER, own)
        partial.rename(root)

    def _load(self) -> Factory:
        settings = load_settings(self._workspace)
        factory = load_factory(
            self._workspace,
            settings,
            load_recipe(self._workspace, RECIPE, {}),
            self._monitor,
            self._ablation.pool,
        )
        return replace(factory, held_out={**factory.held_out, **self._ablation.benchmarks})

    async def _do(self, factory: Factory, number: int, step: str) -> None:
        """Round `number` of the trial's ledger, unless it is there already."""
        with factory.ledger.read() as past:
            done, this = history.finished_rounds(past), history.open_round(past)
        if number in done:
            return
        if this is not None or (step != "lesson" and not self._trial.settled.gold):
            await run_round(factory)
            return
        files = (
            self._trial.settled.teach if step == "lesson" else [self._write_gold(factory, number)]
        )
        plan = plan_lesson(factory, read_lessons(files))
        if plan.left_out:
            self._monitor.note(f"{len(plan.left_out)} rows of the lesson are left out")
        if not plan.examples:
            raise InputError(
                "nothing is left to teach",
                where=", ".join(map(str, files)),
                remedy="`factory teach FILES --dry-run` says why each row is left out",
            )
        await run_lesson(factory, plan)

    def _write_gold(self, factory: Factory, number: int) -> Path:
        """Right labels of the requests that this round would draw."""
        count = factory.recipe.num_queries
        first = (number - 1 - bool(self._trial.settled.teach)) * count
        path = self._workspace.state / f"gold-{number}.jsonl"
        rows = []
        for item in map(fresh_item, range(first, first + count)):
            rows.append({"query": item.query, "tools": item.tools, "calls": item.calls})
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(to_json(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def _read(self, factory: Factory, number: int, step: str) -> tuple[Checkpoint, StepFigures]:
        """What the ledger says of a step, and the checkpoint to score."""
        with factory.ledger.read() as past:
            base = base_checkpoint(factory.workspace, factory.settings, past)
            if not self._trial.settled.steps:
                return base, StepFigures(name=step, checkpoint=base.id)
            made = past.query(
                "select checkpoint_id, path, fingerprint, promoted, reason "
                "from checkpoint where round = ?",
                [number],
            ).rows
            reasons = past.query(
                "select json_extract_string(detail_json, '$.reason') from stage "
                "where round = ? and stage = 'gate' and status = 'done'",
                [number],
            ).rows
            seconds = past.query("select sum(seconds) from stage where round = ?", [number]).rows
            yielded = past.query(
                "select drawn, accepted from round_yield where round = ?", [number]
            ).rows
            right = _count_right(past, number) if self._ablation.pool is None else None
            if made:
                name, path, mark, promoted, reason = made[0]
                checkpoint = Checkpoint(
                    id=name, path=str(factory.workspace.root / path), fingerprint=mark
                )
            else:
                checkpoint = next_checkpoint(factory.workspace, past, base)
                promoted, reason = False, reasons[0][0] if reasons else ""
        drawn, accepted = yielded[0] if yielded else (0, 0)
        return checkpoint, StepFigures(
            name=step,
            checkpoint=checkpoint.id,
            trained=bool(made),
            promoted=promoted,
            reason=reason,
            drawn=drawn,
            accepted=accepted,
            right=right,
            seconds=round(seconds[0][0] or 0.0, 1),
        )

    async def _perplexity(self, factory: Factory, checkpoint: Checkpoint) -> float | None:
        if not self._ablation.text:
            return None
        self._monitor.stage(f"perplexity of {checkpoint.id}")
        found = await measure_perplexity(
            Path(checkpoint.path),
            self._ablation.text,
            threads=factory.settings.engine.threads,
            log=factory.setup.log("perplexity"),
            strides=(STRIDE,),
        )
        return found[0].value


def _write_recipe(path: Path, recipe: Recipe) -> None:
    import tomlkit

    table = recipe.model_dump(mode="json", exclude_none=True, exclude={"extends"})
    path.parent.mkdir(exist_ok=True)
    path.write_text(tomlkit.dumps(table), encoding="utf-8")


def _write_marker(path: Path, to: Path, values: Mapping[str, Any]) -> None:
    """A factory.toml with other values."""
    import tomlkit

    table = tomlkit.parse(read_text(path))
    table.update(values)
    to.write_text(tomlkit.dumps(table), encoding="utf-8")


def _own_values(workspace: Workspace, settings: Settings) -> dict[str, str]:
    """What of factory.toml is relative to the workspace, absolute."""
    return {"replay": str(workspace.root / settings.replay)} if settings.replay else {}


def _count_right(past: Source, number: int) -> int | None:
    """Accepted samples of a round that call what the home world's label of their request says.

    None where a request is not of the home world.
    """
    rows = past.query(
        """
        select q.source, a.tools_json, a.calls_json
        from accepted a
        join (select query_id, any_value(source) as source from query group by 1) q
          using (query_id)
        where a.round = ?
        """,
        [number],
    ).rows
    if not all(source.startswith("home:") for source, _, _ in rows):
        return None
    return sum(_is_right(int(s.partition(":")[2]), tools, calls) for s, tools, calls in rows)


def _is_right(request: int, tools_json: str, calls_json: str) -> bool:
    tools = {tool.name: tool for tool in (Tool(**row) for row in json.loads(tools_json))}
    given = [Call(**row) for row in json.loads(calls_json)]
    wanted = [Call(**row) for row in fresh_item(request).calls]
    return make_key(given, tools).text == make_key(wanted, tools).text

"""Step 1: continue the open round as it began, or draw the queries of a new one."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from factory.codes.saving import load_codebook
from factory.domain.canon import to_json
from factory.domain.failures import DiskError, InputError, MissingError, ModelError
from factory.domain.records import Checkpoint, Query
from factory.engines.opening import check_engine
from factory.engines.trainable import check_trainable
from factory.lab.home.world import HOME_SOURCE, home_stream
from factory.ledger import history
from factory.ledger.database import Source
from factory.ledger.history import Fate, OpenRound
from factory.ledger.lineage import base_checkpoint, next_checkpoint, round_of
from factory.ledger.rows import LOG, ruler_rows, stage_row, unsampled_row
from factory.ledger.tables import Batch, GenerationRow, JudgementRow, RoundRow, merge
from factory.round.backwards import find_stock
from factory.round.calibration import calibration_set
from factory.round.factory import Factory
from factory.round.form import settle_form
from factory.round.judging import judge_drawn
from factory.round.leaning import LOOKED_AT, ROUNDS, lean
from factory.round.opponents import doubt_of_gate
from factory.round.pruning import sweep
from factory.score.keeper import identity_of, identity_sha
from factory.score.loading import load_benchmarks
from factory.score.rows import given_rows
from factory.train.memory import check_training, memory_of
from factory.workspace.identity import SETTINGS, differing
from factory.workspace.machine import device_memory, disk_needed, installed_versions
from factory.workspace.models import check_model_folder
from factory.workspace.recipe import load_stored_recipe, mend
from factory.workspace.settings import SELF, name_model

TAKE_LESS = (
    "--set train.method=lora (the recipes of papers have a -lora beside them), "
    "train.optimizer=adamw_8bit, or train.processes for several GPUs"
)


async def begin(factory: Factory, num_queries: int | None = None) -> tuple[Factory, OpenRound]:
    """The open round, with what it started with in force; where there is none, a new one.

    Raises ModelError for a model that cannot be trained, before anything is drawn or sampled.
    """
    end_replaced(factory)
    with factory.ledger.read() as past:
        factory, this = resume(factory, past)
        base = None
        if this is not None:
            parent = this.checkpoint
        else:
            base = base_checkpoint(factory.workspace, factory.settings, past)
            parent = next_checkpoint(factory.workspace, past, base)
    if this is None:
        factory = await settle_form(factory, Path(parent.path))
    if this is None or "train" not in this.stages_done:
        factory.monitor.stage("check the model")
        await check_trainable(Path(parent.path), factory.prompts, factory.settings.engine)
    wanted = num_queries or factory.recipe.accept or factory.recipe.num_queries
    return factory, this or start(factory, wanted, base)


def end_replaced(factory: Factory) -> None:
    """End an open round that has asked nothing of weights that are others now, and say so.

    Such as a folder of git-lfs pointers that have been pulled since.
    """
    with factory.ledger.read() as past:
        replaced = _find_replaced(factory, past)
    if replaced is not None:
        number = abandon(factory)
        factory.monitor.note(
            f"round {number} had asked nothing of {replaced}, whose weights are others now: it is "
            "ended, and its requests are drawn again"
        )


def _find_replaced(factory: Factory, past: Source) -> str | None:
    this = history.open_round(past)
    if this is None or this.is_lesson or history.has_answers(past, this.number):
        return None
    base = base_checkpoint(factory.workspace, factory.settings, past)
    stored = (factory.workspace.root / this.checkpoint.path).resolve()
    is_same = base.fingerprint == this.checkpoint.fingerprint
    return None if is_same or stored != Path(base.path) else this.checkpoint.id


def resume(factory: Factory, past: Source) -> tuple[Factory, OpenRound | None]:
    """The open round, and the factory with the recipe and benchmarks that it started with.

    Flags may still change how it trains and scores. Raises InputError where prompts or rules
    have changed and samples are missing: one judgement has one set of rules.
    """
    this = history.open_round(past)
    if this is None:
        return factory, None
    resolved = mend(load_stored_recipe(this.recipe_name, this.recipe_json), factory.resolved)
    benchmarks = load_benchmarks(factory.workspace, resolved.recipe)
    rulebook = factory.rulebook.under(resolved.recipe.rules)
    factory = replace(factory.under(resolved), benchmarks=benchmarks, rulebook=rulebook)
    if "sample" not in this.stages_done and this.content_sha != factory.content_sha:
        raise InputError(
            f"prompts or rules have changed since round {this.number} began",
            where=str(factory.workspace.root),
            remedy="undo the edit or the upgrade to continue, or end it: `factory round --abandon`",
        )
    if resolved.recipe.accept and "sample" not in this.stages_done:
        _check_pool(factory, history.drawn_queries(past, this.number))
    base = base_checkpoint(factory.workspace, factory.settings, past)
    stored = replace(this.checkpoint, path=str(factory.workspace.root / this.checkpoint.path))
    parent = base if stored.id == base.id else stored
    check_model_folder(Path(parent.path))
    if "sample" not in this.stages_done and history.has_answers(past, this.number):
        _check_same(factory, past, this, parent)
    num_pending = len(history.pending_queries(past, this.number))
    made = "" if "make" in this.stages_done else "make.…, "
    state = "a lesson" if this.is_lesson else f"{num_pending} queries without a sample"
    factory.monitor.note(
        f"continuing round {this.number}: {state}; its queries, model and recipe stay, "
        f"--set {made}train.…, codes.… and score.… apply"
    )
    return factory, replace(this, checkpoint=parent)


def _check_pool(factory: Factory, drawn: Sequence[Query]) -> None:
    """Refuse to draw more from the home world for a round of files, or the other way round."""
    of_home = all(query.source.startswith(HOME_SOURCE) for query in drawn)
    if not drawn or of_home == (factory.pool is None):
        return
    source = drawn[0].source.rpartition(":")[0] or drawn[0].source
    given = SELF if source == SELF else "FILE"
    raise InputError(
        "the open round draws on until enough samples are accepted, and from "
        + ("the home world, not from files" if of_home else f"files such as {source}"),
        remedy="leave out --queries, and `queries` of factory.toml, to continue it"
        if of_home
        else f"name them to continue it: factory round --queries {given}",
    )


def _check_same(factory: Factory, past: Source, this: OpenRound, parent: Checkpoint) -> None:
    """Raise ModelError where samples of one round would be those of two models."""
    if changed := _changed_parts(factory, past, parent, this.identity):
        raise ModelError(
            f"the {' and the '.join(changed)} of {parent.id} changed since round {this.number} "
            "sampled with it",
            where=parent.path,
            remedy="undo the edit to continue, or end the round: `factory round --abandon` gives "
            "back the requests that have no answer",
        )


def abandon(factory: Factory) -> int:
    """End the open round as it is, without training; its number. Raises InputError.

    Its requests without an answer may be drawn again.
    """
    this = history.open_round(factory.ledger)
    if this is None:
        raise InputError("no round is open", remedy="factory round starts one")
    detail = {"reason": history.ABANDONED}
    factory.finish(this.number, "gate", datetime.now(UTC), detail=detail)
    sweep(factory.workspace.state)
    return this.number


def start(factory: Factory, num_queries: int, base: Checkpoint | None = None) -> OpenRound:
    """Draw the queries and write the round's first rows, all in one append."""
    with factory.ledger.read() as past:
        base = base or base_checkpoint(factory.workspace, factory.settings, past)
        this = next_round(factory, past, base)
        drawn = history.drawn_ids(past)
        accepted = history.accepted_before(past, this.number)
        given = merge([unknown_rows(factory, past, base), identity_rows(factory, past, this)])
        fates = find_fates(factory, past, this.number)
    calibration_set(factory)
    factory.monitor.stage("draw")
    queries, chosen = choose(factory, num_queries, drawn, fates)
    wanted = _plan_writing(factory, this, queries, num_queries) if factory.writes else 0
    note_model(factory)
    if accept := factory.recipe.accept:
        most = factory.recipe.most_drawn
        factory.monitor.note(
            f"drawing until {accept} samples are accepted, {most} requests at most (--budget)"
        )
    elif len(queries) < num_queries and not factory.writes:
        factory.monitor.note(f"the pool has {len(queries)} fresh queries, not {num_queries}")
    judged = judge_drawn(factory, this, queries, accepted)
    write_start(factory, this, queries, merge([judged, given]), chosen, wanted)
    return this


def _plan_writing(factory: Factory, this: OpenRound, queries: Sequence[Query], count: int) -> int:
    """How many queries the round is to have, those that the model writes included; says so.

    Raises InputError where there are none and nothing that they could be written from.
    """
    if len(queries) == count:
        return count
    with factory.ledger.read() as past:
        if find_stock(past, this) is not None:
            missing = count - len(queries)
            factory.monitor.note(f"{len(queries)} fresh requests; the model writes {missing} more")
            return count
    told = "nothing that others could be written from: no accepted sample, no imported tool"
    if queries:
        factory.monitor.note(f"{len(queries)} fresh requests, and yet {told}")
        return len(queries)
    raise InputError(
        f"there are no fresh requests, and {told} whose values are known",
        remedy="`factory add-tools FILE` imports tools, `factory round --queries FILE` begins with "
        "requests of people",
    )


def find_fates(factory: Factory, past: Source, number: int) -> list[Fate]:
    """What tells where the model is weak, where the recipe draws by it."""
    return history.recent_fates(past, number, ROUNDS) if factory.recipe.draw.weak else []


def choose(
    factory: Factory, count: int, drawn: set[str], fates: Sequence[Fate]
) -> tuple[list[Query], dict[str, str]]:
    """The queries to draw, and by id why one was chosen before others. Raises InputError as draw,
    but where the model writes what is missing.

    A note says how many were; where no earlier round says of what, that none could be.
    """
    share, pool = factory.recipe.draw.weak, open_pool(factory)
    if factory.writes and all(query.id in drawn for query in factory.pool or ()):
        return [], {}
    if not any(fate.weakness for fate in fates):
        if share:
            factory.monitor.note("draw.weak: no request of an earlier round failed; drawn in order")
        return draw(pool, count, drawn, factory.pool_size), {}
    fresh = draw(pool, LOOKED_AT * count, drawn, factory.pool_size)
    queries, chosen = lean(fresh, count, share, fates)
    factory.monitor.note(
        f"draw.weak: {len(chosen)} of {len(queries)} requests are drawn because they are like ones "
        f"that failed, of {len(fresh)} fresh ones"
    )
    return queries, chosen


def next_round(factory: Factory, past: Source, base: Checkpoint) -> OpenRound:
    """The round that would begin now, of which nothing is written yet; says what its gate is worth.

    Raises ModelError, DiskError, MissingError where this model or machine cannot make it.
    """
    parent = next_checkpoint(factory.workspace, past, base, factory.monitor.note)
    check_model_folder(Path(parent.path))
    sweep(factory.workspace.state)
    _check_machine(factory, Path(parent.path))
    if doubt := doubt_of_gate(factory.settings, factory.recipe):
        factory.monitor.note(doubt)
    if changed := _changed_parts(factory, past, parent, history.last_identity(past, parent.id)):
        factory.monitor.note(
            f"{parent.id} is not the model that the ledger knows: its {', '.join(changed)} changed "
            "since; its scores are made again"
        )
    return OpenRound(
        number=history.last_round(past) + 1,
        recipe_name=factory.resolved.name,
        recipe_json=factory.recipe.model_dump_json(),
        content_sha=factory.content_sha,
        checkpoint=parent,
        judgement=1,
        stages_done=frozenset({"draw"}),
        identity=identity_sha(factory.setup, parent),
    )


def note_model(factory: Factory) -> None:
    """Write a model that a flag gave into factory.toml, and say so."""
    model = factory.settings.model
    if factory.keep_model and name_model(factory.workspace, model):
        marker = factory.workspace.marker
        factory.monitor.note(f"{marker} names {model} now: every command goes on with it")


def unknown_rows(factory: Factory, past: Source, base: Checkpoint) -> Batch:
    """The rows of a given model that the ledger does not know yet."""
    if round_of(past, base.id) is not None:
        return {}
    identity = identity_sha(factory.setup, base) or ""
    return given_rows(base, load_codebook(Path(base.path)), identity)


def _changed_parts(
    factory: Factory, past: Source, checkpoint: Checkpoint, before: str | None
) -> list[str]:
    """What of a checkpoint's folder has changed since it had this identity."""
    model = identity_of(factory.setup, checkpoint)
    if model is None or before is None:
        return []
    return [x for x in differing(history.parts_of(past, before), model.parts) if x not in SETTINGS]


def identity_rows(factory: Factory, past: Source, this: OpenRound) -> Batch:
    """What the model is made of that a round begins from, where the ledger does not know that."""
    model = identity_of(factory.setup, this.checkpoint)
    if model is None or history.knows_ruler(past, "", model.sha):
        return {}
    return {"ruler": ruler_rows("", model.sha, model.parts)}


def open_pool(factory: Factory) -> Iterator[Query]:
    """What a round draws from."""
    return home_stream() if factory.pool is None else iter(factory.pool)


def query_rows(
    this: OpenRound, queries: Sequence[Query], chosen: Mapping[str, str], first: int = 0
) -> Batch:
    """Queries that the round draws, from position `first` on, and their logs; `chosen` says by id
    why one was drawn before others.
    """
    now = datetime.now(UTC)
    return {
        "query": [
            {"query_id": q.id, "text": q.text, "source": q.source, "added_at": now} for q in queries
        ],
        "draw": [
            {
                "round": this.number,
                "position": position,
                "query_id": query.id,
                "chosen": chosen.get(query.id, ""),
            }
            for position, query in enumerate(queries, first)
        ],
        "generation": log_rows(this, queries),
    }


def log_rows(this: OpenRound, queries: Sequence[Query]) -> list[GenerationRow]:
    """What the logs of queries have beside them, as the answers of nobody's model."""
    rows: list[GenerationRow] = []
    for query in queries:
        if query.log is not None:
            text = to_json(asdict(query.log))
            rows.append(unsampled_row(this.number, query.id, "log", text, LOG))
    return rows


def write_start(
    factory: Factory,
    this: OpenRound,
    queries: Sequence[Query],
    more: Batch,
    chosen: Mapping[str, str] | None = None,
    wanted: int = 0,
) -> None:
    """Append the first rows of a round and its queries with `more`, all or nothing; `chosen` as in
    query_rows, `wanted` where the round is to have more queries yet.
    """
    now = datetime.now(UTC)
    judgement: JudgementRow = {
        "judgement": this.judgement,
        "round": this.number,
        "rules_sha": factory.rulebook.sha,
        "made_at": now,
        "note": "while sampling",
    }
    first: Batch = {
        "round": [_round_row(factory, this, max(wanted, len(queries)), now)],
        "judgement": [judgement],
        "stage": [stage_row(this.number, "draw", now, {"queries": len(queries)})],
    }
    factory.ledger.append(merge([first, query_rows(this, queries, chosen or {}), more]))
    factory.ledger.fold()


def draw(pool: Iterable[Query], count: int, drawn: set[str], size: int = 0) -> list[Query]:
    """The first `count` queries of the pool that are not in `drawn`, each once; fewer where it has
    fewer. Raises InputError where it has none; `size` is that of the files, where the pool is less.

    What is wrong with one as such, e.g. that it overlaps a benchmark, set rules of the stage `draw`
    say; it is drawn all the same, so that it is seen.
    """
    fresh: list[Query] = []
    seen = set(drawn)
    total = 0
    for query in pool:
        total += 1
        if query.id not in seen:
            seen.add(query.id)
            fresh.append(query)
            if len(fresh) == count:
                break
    if not fresh:
        raise InputError(
            f"the query pool is empty: it holds {max(total, size)} queries and all have been drawn",
            remedy="add requests: `factory round --queries FILE`, or `queries` in factory.toml; "
            "--queries self has the model write its own",
        )
    return fresh


def _check_machine(factory: Factory, model: Path) -> None:
    """Refuse what this machine cannot do. Raises DiskError, MissingError."""
    state = factory.workspace.state
    state.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(state).free, disk_needed(model)
    if free < needed:
        raise DiskError(
            f"{free / 2**30:.2f} GiB are free; a round of this model needs {needed / 2**30:.2f}",
            where=str(state),
            remedy="free some space, or `factory init` a workspace on another disk",
        )
    check_training(factory.recipe)
    check_engine(factory.settings.engine, lambda _: None)
    device, memory = device_memory()
    needed_memory = memory_of(
        factory.recipe, model, gpu=device == "GPU", dtype=factory.settings.engine.dtype
    )
    what = "all weights" if factory.recipe.train.method == "full" else "adapters"
    told = f"training {what} takes {needed_memory}; this {device} has "
    if memory is not None and needed_memory.fixed > memory:
        raise MissingError(
            f"{told}{memory / 2**30:.1f} GiB",
            where=f"recipe {factory.resolved.name}",
            remedy=TAKE_LESS if what == "all weights" else "train a smaller model",
        )
    if memory is not None and needed_memory.total > memory:
        factory.monitor.note(
            f"{told}{memory / 2**30:.1f} GiB: long examples may not fit; "
            "--set train.max_length or train.micro_batch_size lower them"
        )


def _round_row(factory: Factory, this: OpenRound, num_queries: int, now: datetime) -> RoundRow:
    row: RoundRow = {
        "round": this.number,
        "started_at": now,
        "checkpoint_id": this.checkpoint.id,
        "checkpoint_fingerprint": this.checkpoint.fingerprint,
        "recipe_name": this.recipe_name,
        "recipe_json": this.recipe_json,
        "recipe_sha": factory.recipe.sha,
        "prompts_sha": factory.prompts.set_sha(),
        "rules_sha": factory.rulebook.sha,
        "seed": factory.recipe.seed,
        "num_queries": num_queries,
        "package_version": metadata.version("tool-factory"),
        "versions_json": to_json(installed_versions()),
    }
    if this.identity is not None:
        row["identity"] = this.identity
    return row

"""Which checkpoint a command means: by id, by folder, by lineage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from factory.domain.failures import InputError
from factory.domain.records import Checkpoint
from factory.ledger.database import Source
from factory.ledger.history import Scored
from factory.workspace.folder import Workspace
from factory.workspace.identity import Identity, identify
from factory.workspace.models import check_model_folder, fingerprint
from factory.workspace.settings import EngineSection, Settings


def given_names(past: Source, folder: str, mark: str) -> list[str]:
    """Ids of the given model in `folder`, which has this fingerprint; the first known comes first.

    That of another folder counts where it is gone: the model was moved. A copy is another model.
    """
    sql = """
        select checkpoint_id, path
        from checkpoint where parent_id is null and fingerprint = ? order by made_at, checkpoint_id
        """
    rows = past.query(sql, [mark]).rows
    return [name for name, path in rows if path == folder or not Path(path).exists()]


def given_fingerprint(past: Source, folder: str, changed: datetime) -> str | None:
    """Fingerprint of the model given in `folder` after `changed` (UTC), else None."""
    sql = """
        select fingerprint
        from checkpoint where parent_id is null and path = ? and made_at > ? order by made_at desc
        """
    rows = past.query(sql, [folder, changed.replace(tzinfo=None)], limit=1).rows
    return str(rows[0][0]) if rows else None


def descendants(past: Source, base: Checkpoint) -> dict[str, Checkpoint | None]:
    """By id, `base` and what rounds made of it, in order; None where it was not promoted."""
    sql = """
        select checkpoint_id, parent_id, path, fingerprint, promoted
        from checkpoint where parent_id is not null order by round
        """
    rows = past.query(sql).rows
    names = given_names(past, base.path, base.fingerprint)
    found: dict[str, Checkpoint | None] = dict.fromkeys([*names, base.id])
    for checkpoint_id, parent_id, path, mark, promoted in rows:
        if parent_id in found:
            made = Checkpoint(id=checkpoint_id, path=path, fingerprint=mark)
            found[checkpoint_id] = made if promoted else None
    return found


def promoted_checkpoint(past: Source, base: Checkpoint) -> Checkpoint:
    """The latest promoted descendant of `base`; `base` itself where there is none."""
    promoted = [each for each in descendants(past, base).values() if each is not None]
    return promoted[-1] if promoted else base


class Best(NamedTuple):
    """The best checkpoint of a lineage so far. Example: Best(r2, "home-dev", 55.0)."""

    checkpoint: Checkpoint
    benchmark: str = ""
    """What says so: the gate's own set; empty where nothing has compared them."""
    value: float | None = None


class Ruler(NamedTuple):
    """What scores must have in common to be compared. Example: Ruler("home-dev", "9f3c…")."""

    benchmark: str
    basis: str
    """As in the table score."""


def last_ruler(past: Source, base: Checkpoint) -> tuple[int, Ruler] | None:
    """By what the gate last promoted in the lineage of `base`, with the round; by what it first
    compared calls, where it has promoted nothing. A round held back changes no ruler.
    """
    sql = """
        select gate.round, benchmark, basis, checkpoint_id
        from gate join checkpoint using (checkpoint_id)
        where measure = 'calls'
        order by promoted desc, if(promoted, -gate.round, gate.round)
        """
    line = descendants(past, base)
    found = (row for row in past.query(sql).rows if row[3] in line)
    return next(((number, Ruler(name, basis)) for number, name, basis, _ in found), None)


Models = Callable[[Checkpoint], Identity | None]
"""What a checkpoint is now; None of a server's, or of one whose folder is gone."""


def models_of(workspace: Workspace, engine: EngineSection) -> Models:
    """Checkpoints as an engine of these settings would serve them."""

    def model_of(checkpoint: Checkpoint) -> Identity | None:
        folder = workspace.root / checkpoint.path
        if is_address(checkpoint.path) or not folder.is_dir():
            return None
        return identify(folder, checkpoint.fingerprint, engine)

    return model_of


def find_best(
    past: Source, base: Checkpoint, ruler: Ruler | None = None, models: Models | None = None
) -> Best:
    """The checkpoint in force (`base`, or promoted) of the highest score; of equal ones the latest.

    By the ruler, without one by that of the gate's last promotion: scores by any other are not
    compared. Nor are, with `models`, scores of what a checkpoint is no more: another template or
    tokenizer in its folder, another dtype. Where nothing has been decided, or the latest promoted
    one has no score by that ruler, it is that one: nothing says that another is better.
    """
    promoted = [each for each in descendants(past, base).values() if each is not None]
    in_force = [base, *promoted]
    last = last_ruler(past, base) if ruler is None else (0, ruler)
    if last is None:
        return Best(in_force[-1])
    sql = """
        select checkpoint_id, identity, scored_at, value
        from score where benchmark = ? and basis = ? and category = 'overall' order by scored_at
        """
    known = {each.id: models(each) if models else None for each in in_force}
    values: dict[str, float] = {}
    for name, identity, at, value in past.query(sql, [*last[1]]).rows:
        model = known.get(name)
        if model is None or Scored(identity, at.replace(tzinfo=UTC)).is_of(model):
            values[name] = float(value)
    scored = [each for each in in_force if each.id in values]
    if not scored or (ruler is None and in_force[-1].id not in values):
        return Best(in_force[-1])
    best = max(reversed(scored), key=lambda each: values[each.id])
    return Best(best, last[1].benchmark, values[best.id])


def round_of_another(past: Source, base: Checkpoint) -> tuple[int, str] | None:
    """Number and starting checkpoint of the latest round, where it was of another model."""
    sql = "select round, checkpoint_id from round order by round desc"
    rows = past.query(sql, limit=1).rows
    if not rows or rows[0][1] in descendants(past, base):
        return None
    return int(rows[0][0]), str(rows[0][1])


def find_checkpoints(past: Source, wanted: str) -> list[Checkpoint]:
    """Checkpoints with this id or fingerprint, else those whose name it is (`r3`)."""
    sql = """
        select checkpoint_id, any_value(path), any_value(fingerprint)
        from checkpoint
        where checkpoint_id = $wanted or fingerprint = $wanted
          or starts_with(checkpoint_id, $wanted || '-')
        group by checkpoint_id order by checkpoint_id <> $wanted, checkpoint_id
        """
    rows = past.query(sql, {"wanted": wanted}).rows
    found = [Checkpoint(id=name, path=path, fingerprint=mark) for name, path, mark in rows]
    return found[:1] if found and found[0].id == wanted else found


def round_of(past: Source, checkpoint_id: str) -> int | None:
    """The round that made a checkpoint, 0 for a model that was given; None where unknown."""
    sql = "select min(round) from checkpoint where checkpoint_id = ?"
    number = past.query(sql, [checkpoint_id]).rows[0][0]
    return None if number is None else int(number)


def is_address(model: str) -> bool:
    """Whether a model is named by the address of its server."""
    return model.startswith(("http://", "https://"))


def find_checkpoint(
    workspace: Workspace,
    settings: Settings,
    past: Source,
    wanted: str,
    notify: Callable[[str], None] | None = None,
) -> Checkpoint:
    """The one checkpoint that a command means by a word.

    `wanted` is an id of the ledger, whole or its name (`r3`); a model folder; an address
    `http://host:port/v1#name`, which is the path then; or "", the best one so far (`notify`: see
    next_checkpoint). Raises InputError, ModelError.
    """
    if is_address(wanted):
        url, _, name = wanted.partition("#")
        if not name:
            raise InputError(
                "the address does not say which model",
                where=wanted,
                remedy=f"add its name as the server knows it: {url}#NAME",
            )
        return Checkpoint(id=wanted, path=wanted, fingerprint=wanted)
    if not wanted:
        base = base_checkpoint(workspace, settings, past)
        return best_checkpoint(workspace, settings, past, base, notify).checkpoint
    found = find_checkpoints(past, wanted)
    if len(found) > 1:
        ids = ", ".join(checkpoint.id for checkpoint in found)
        raise InputError(f"{wanted} may be any of {ids}", remedy="give the whole id")
    if found:
        return replace(found[0], path=str(workspace.root / found[0].path))
    folder = Path(wanted).expanduser().resolve()
    if not folder.exists():
        raise InputError(
            f"there is no checkpoint {wanted!r}, and no such folder",
            where=str(workspace.root),
            remedy='factory sql "select checkpoint_id from lineage" lists the checkpoints',
        )
    check_model_folder(folder)
    mark = fingerprint(folder)
    known = find_checkpoints(past, mark)
    if not known:
        return make_checkpoint(folder.name, folder, mark)
    model = identify(folder, mark)
    if alike := next((x for x in known if _is_alike(workspace, x, folder, model)), None):
        return replace(alike, path=str(folder))
    made = make_checkpoint(folder.name, folder, mark)
    if any(made.id == each.id for each in known):
        made = replace(make_checkpoint(folder.name, folder, model.sha), fingerprint=mark)
    return made


def _is_alike(workspace: Workspace, known: Checkpoint, folder: Path, model: Identity) -> bool:
    """Whether a folder with a known checkpoint's weights holds that model in every other part."""
    place = (workspace.root / known.path).resolve()
    if place == folder or not place.is_dir():
        return True
    return identify(place, known.fingerprint).parts == model.parts


def next_checkpoint(
    workspace: Workspace,
    past: Source,
    base: Checkpoint,
    notify: Callable[[str], None] | None = None,
) -> Checkpoint:
    """What the next round starts from: the latest promoted descendant of factory.toml's model
    (`base`), or that model itself.

    `notify` is told where the latest round was of another model.
    """
    return _settle(workspace, past, base, promoted_checkpoint(past, base), notify)


def best_checkpoint(
    workspace: Workspace,
    settings: Settings,
    past: Source,
    base: Checkpoint,
    notify: Callable[[str], None] | None = None,
) -> Best:
    """What every other command takes unless a flag names another: find_best, `notify` likewise."""
    best = find_best(past, base, models=models_of(workspace, settings.engine))
    return best._replace(checkpoint=_settle(workspace, past, base, best.checkpoint, notify))


def _settle(
    workspace: Workspace,
    past: Source,
    base: Checkpoint,
    found: Checkpoint,
    notify: Callable[[str], None] | None,
) -> Checkpoint:
    """`found` with its whole path."""
    if notify is not None and (other := round_of_another(past, base)):
        notify(
            f"the latest round, {other[0]}, was of {other[1]}; factory.toml names another model, "
            f"so {found.id} is used ({found.path})"
        )
    return replace(found, path=str(workspace.root / found.path))


def base_checkpoint(
    workspace: Workspace, settings: Settings, past: Source, *, exact: bool = True
) -> Checkpoint:
    """The model of the settings, as the checkpoint that starts the lineage.

    A folder that was moved or renamed keeps its id. Without `exact`, the weights of a known folder
    are not read where they are older than its row.
    """
    folder = workspace.model_folder(settings.model)
    check_model_folder(folder)
    path = folder.resolve()
    known = None if exact else given_fingerprint(past, str(path), _changed(path))
    mark = known or fingerprint(path)
    made = make_checkpoint(folder.name, path, mark)
    names = given_names(past, str(path), mark)
    return replace(made, id=names[0]) if names else made


def _changed(folder: Path) -> datetime:
    """When a weight file of the folder was written last."""
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    return datetime.fromtimestamp(max(file.stat().st_mtime for file in files), UTC)


def make_checkpoint(name: str, folder: Path, mark: str) -> Checkpoint:
    """A checkpoint whose id tells apart other weights under the same name."""
    return Checkpoint(id=f"{name}-{mark.split(':')[-1][:6]}", path=str(folder), fingerprint=mark)

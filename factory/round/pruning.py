"""Which checkpoints nothing needs any more, and what killed trainings have left."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.domain.failures import DiskError, InputError
from factory.domain.records import Checkpoint
from factory.ledger import history
from factory.ledger.database import Source
from factory.ledger.lineage import base_checkpoint, find_best, find_checkpoints, promoted_checkpoint
from factory.workspace.folder import CONTENT_FOLDERS, MARKER, Workspace
from factory.workspace.settings import Settings

FOLDER = "checkpoints"
"""Below the workspace's state."""
_MADE = re.compile(r"r\d+")
_LEFT = re.compile(r"r\d+\.(tmp|job)")
_NAMING = ("plans", *CONTENT_FOLDERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointUse:
    """A checkpoint's folder. Example: CheckpointUse(path=…/r3, size=269_000_000, why="")."""

    path: Path
    size: int
    """Bytes."""
    why: str
    """What needs it; empty where nothing does."""


def survey(
    workspace: Workspace, settings: Settings, past: Source, dev: str, named: Sequence[str] = ()
) -> list[CheckpointUse]:
    """The workspace's checkpoints by number, each with what needs it.

    Kept are what a round goes on with, the parent and the own one of an open round, the best on
    the benchmark `dev`, what a file of the workspace names (its folder, its id such as r3 or
    r3-0a1b2c, its fingerprint), and those `named`. Raises InputError for a name that no
    checkpoint has.
    """
    why: dict[Path, str] = {}
    for checkpoint, reason in _needed(workspace, settings, past, dev, named):
        why.setdefault((workspace.root / checkpoint.path).resolve(), reason)
    if (this := history.open_round(past)) is not None:
        folder = history.checkpoint_folder(workspace.state, this.number)
        why.setdefault(folder.resolve(), f"round {this.number} is open")
    folders = _folders(workspace.state)
    texts = {path: path.read_text("utf-8", "replace") for path in _files(workspace)}
    marks = _marks(workspace, past)
    for folder in folders:
        quoted = r"""["'](?:[^"'\n]*[^\w./"'\n-])?"""
        name = rf"(?:{FOLDER}/|{quoted}){folder.name}(?:-[0-9a-f]{{6}})?(?![\w.-])"
        pattern = re.compile("|".join((name, *map(re.escape, marks.get(folder.resolve(), ())))))
        for path, text in texts.items():
            if pattern.search(text):
                place = path.relative_to(workspace.root)
                why.setdefault(folder.resolve(), f"{place} names it")
    return [
        CheckpointUse(path=folder, size=size_of(folder), why=why.get(folder.resolve(), ""))
        for folder in folders
    ]


def remove(kept: Sequence[CheckpointUse]) -> int:
    """Remove the folders that nothing needs; how many bytes they had. Raises DiskError."""
    freed = 0
    for each in kept:
        if not each.why:
            try:
                shutil.rmtree(each.path)
            except OSError as error:
                raise DiskError(
                    f"the checkpoint cannot be removed: {error.strerror}", where=str(each.path)
                ) from error
            freed += each.size
    return freed


def sweep(state: Path) -> None:
    """Remove what trainings left that did not end; while no round is open, they are nobody's."""
    for path in (state / FOLDER).glob("r*"):
        if _LEFT.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def size_of(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def checkpoints_of(state: Path) -> tuple[int, int]:
    """How many checkpoints there are, and their bytes."""
    folders = _folders(state)
    return len(folders), sum(map(size_of, folders))


def told(size: int) -> str:
    """Bytes in a unit that fits. Example: told(269_267_912) is 256.8 MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _folders(state: Path) -> list[Path]:
    found = [path for path in (state / FOLDER).glob("r*") if _MADE.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name[1:]))


def _files(workspace: Workspace) -> Iterator[Path]:
    yield workspace.root / MARKER
    for folder in _NAMING:
        yield from (workspace.root / folder).rglob("*.toml")


def _marks(workspace: Workspace, past: Source) -> dict[Path, list[str]]:
    """Fingerprints of what was made, by its folder."""
    sql = """
        select path, list(distinct fingerprint)
        from checkpoint where parent_id is not null group by 1
        """
    return {(workspace.root / path).resolve(): marks for path, marks in past.query(sql).rows}


def _needed(
    workspace: Workspace, settings: Settings, past: Source, dev: str, named: Sequence[str]
) -> Iterator[tuple[Checkpoint, str]]:
    base = base_checkpoint(workspace, settings, past, exact=False)
    yield promoted_checkpoint(past, base), "the next round starts from it"
    yield find_best(past, base).checkpoint, "the best so far"
    if (this := history.open_round(past)) is not None:
        yield this.checkpoint, f"round {this.number} started from it"
    for name in named:
        found = find_checkpoints(past, name)
        if not found:
            raise InputError(f"there is no checkpoint {name!r}", remedy="`factory prune --dry-run`")
        yield from ((checkpoint, "--keep") for checkpoint in found)
    sql = """
        select checkpoint_id, path, fingerprint
        from checkpoint where parent_id is null group by all order by 1, 2
        """
    for name, path, mark in past.query(sql).rows:
        other = Checkpoint(id=name, path=path, fingerprint=mark)
        yield promoted_checkpoint(past, other), f"the latest of {name}"
    sql = """
        select checkpoint_id, any_value(checkpoint.path), any_value(fingerprint)
        from score join checkpoint using (checkpoint_id)
        where benchmark = ? and category = 'overall'
        group by 1 order by arg_max(value, scored_at) desc, 1
        """
    for name, path, mark in past.query(sql, [dev], limit=1).rows:
        yield Checkpoint(id=name, path=path, fingerprint=mark), f"the best on {dev}"

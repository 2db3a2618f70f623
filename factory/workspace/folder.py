"""The workspace: where the user's files are, and which shipped file stands in for a missing one.

A workspace is a folder with a `factory.toml`. Prompts, rules, recipes and benchmarks are looked up
there first and among the shipped files second, path by path; so a user edits one copied file and
keeps the rest. A checkout of the project is itself a workspace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from factory.domain.failures import ContentError, InputError

MARKER = "factory.toml"
CONTENT_FOLDERS = ("prompts", "rules", "rounds", "eval")


def shipped_root() -> Path:
    """Folder of the shipped content: inside the installed package, or the checkout's root."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "builtin_data"
    return installed if installed.is_dir() else package.parent


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder with a factory.toml. Example: Workspace(root=Path("/home/me/tools"))."""

    root: Path
    """Absolute path of the folder."""

    @classmethod
    def locate(cls, start: Path) -> Workspace:
        """The nearest folder upwards from `start` with a factory.toml. Raises InputError."""
        start = start.resolve()
        for folder in (start, *start.parents):
            if (folder / MARKER).is_file():
                return cls(folder)
        raise InputError(
            f"no {MARKER} here or in any folder above",
            where=str(start),
            remedy="`factory init DIR` makes a workspace; then run the command inside DIR",
        )

    @property
    def state(self) -> Path:
        """Folder of everything the factory writes: ledger, checkpoints, logs."""
        return self.root / ".factory"

    @property
    def marker(self) -> Path:
        """The settings file."""
        return self.root / MARKER

    def find(self, path: str) -> Path:
        """The file or folder at `path`: the workspace's own, else the shipped one.

        Raises ContentError where neither exists, and for paths that leave the workspace.
        """
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ContentError(f"{path!r} is not a path inside the workspace", where=path)
        for root in (self.root, shipped_root()):
            if (root / path).exists():
                return root / path
        raise ContentError(
            f"no such file: {path}",
            where=f"{self.root} and the shipped files",
            remedy=f"check the name; `ls {shipped_root() / Path(path).parts[0]}` lists what ships",
        )

    def walk(self, folder: str, suffix: str) -> Iterator[tuple[str, Path]]:
        """(path, file) of every file below `folder` that ends in `suffix`, overlay applied.

        Sorted by path; a workspace file hides the shipped one of the same path.
        """
        found: dict[str, Path] = {}
        for root in (shipped_root(), self.root):
            for file in sorted((root / folder).rglob(f"*{suffix}")):
                if file.is_file():
                    found[file.relative_to(root).as_posix()] = file
        yield from sorted(found.items())

    def model_folder(self, model: str) -> Path:
        """Absolute folder of a model: as given, relative to the workspace, or shipped."""
        folder = Path(model).expanduser()
        if folder.is_absolute():
            return folder
        own = self.root / folder
        return own if own.exists() else shipped_root() / folder


def file_sha(path: Path) -> str:
    """SHA-256 of a file's bytes, 16 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def files_sha(files: Iterator[tuple[str, Path]]) -> str:
    """SHA-256 over (path, bytes) of several files, 16 hex digits."""
    total = hashlib.sha256()
    for path, file in files:
        total.update(path.encode() + b"\0" + file.read_bytes() + b"\0")
    return total.hexdigest()[:16]

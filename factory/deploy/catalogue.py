"""The tools of a served checkpoint: by code, as its `codes/` has them at the moment.

`factory codes add` and `factory add-tools` put another folder in that place while the server runs;
the next request sees it. What is searched is a copy of the trie, so that no reader meets a folder
that is just being renamed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.codes.saving import FOLDER
from factory.codes.trie import Trie
from factory.domain.failures import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """The codes of one moment. Example: served.current().tool_of(token_ids)."""

    trie: Trie
    path: str
    """Of the trie's copy."""
    documents: dict[str, dict[str, Any]]
    """By tool id."""
    stamp: tuple[int, int]
    """Of the files that it was read from."""

    @property
    def longest(self) -> int:
        """Tokens of the longest code and its end."""
        return self.trie.measure_depth() + 1

    def tool_of(self, token_ids: Sequence[int]) -> dict[str, Any] | None:
        """The document that a code names, its end included or not; None for no tool's code."""
        ended = bool(token_ids) and token_ids[-1] == self.trie.end
        tool_id = self.trie.lookup(tuple(token_ids[:-1] if ended else token_ids))
        return self.documents.get(tool_id) if tool_id else None

    def named(self, names: Collection[str]) -> list[dict[str, Any]]:
        """The first tool of each name, in the catalogue's order."""
        found: dict[str, dict[str, Any]] = {}
        for document in self.documents.values():
            if document["name"] in names:
                found.setdefault(str(document["name"]), document)
        return list(found.values())


class ServedCatalogue:
    """The codes of a checkpoint folder, read again when they have changed."""

    def __init__(self, checkpoint: Path, scratch: Path) -> None:
        """`scratch` is where copies of the trie go, for this process and its engine's.

        Raises ModelError for codes that cannot be read.
        """
        self._folder = checkpoint / FOLDER
        self._scratch = scratch
        self._number = 0
        self._coded: Coded | None = None
        if self._folder.exists():
            try:
                self._coded = self._read(self._stamp())
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ModelError(
                    f"the codes cannot be read: {type(error).__name__} {error}",
                    where=str(self._folder),
                    remedy="start again if tools were just being added; else `factory codes fit "
                    "--out FOLDER` makes new ones",
                ) from error

    def current(self) -> Coded | None:
        """The codes as they are; those before, while they are being replaced; None without any."""
        try:
            stamp = self._stamp()
            if self._coded is None or self._coded.stamp != stamp:
                self._coded = self._read(stamp)
        except (OSError, ValueError, KeyError):
            # The folder is being replaced; the next request finds it whole.
            pass
        return self._coded

    def _stamp(self) -> tuple[int, int]:
        trie, tools = (self._folder / name for name in ("trie.npz", "tools.jsonl"))
        return trie.stat().st_mtime_ns, tools.stat().st_mtime_ns

    def _read(self, stamp: tuple[int, int]) -> Coded:
        copy = self._scratch / f"trie-{self._number}.npz"
        shutil.copyfile(self._folder / "trie.npz", copy)
        lines = (self._folder / "tools.jsonl").read_text("utf-8").splitlines()
        if self._stamp() != stamp:
            raise ValueError("replaced meanwhile")
        self._number += 1
        rows = map(json.loads, lines)
        return Coded(
            trie=Trie.load(copy),
            path=str(copy),
            documents={str(row["tool_id"]): row["document"] for row in rows},
            stamp=stamp,
        )

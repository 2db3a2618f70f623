"""The pages as the tests read them: texts, fenced blocks, and how a block is run and compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workspaces import ROOT

TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
COMMAND_LANGUAGES = ("bash", "console", "sh", "shell")
FENCE = re.compile(r"^```(?P<info>.*)\n(?P<text>(?:.*\n)*?)```$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block. Example: Block(page="README.md", line=15, language="bash", …)."""

    page: str
    line: int
    language: str
    marks: dict[str, str]
    """Words after the language, such as needs=gpu."""
    text: str

    @property
    def runs(self) -> bool:
        return self.language in COMMAND_LANGUAGES and "needs" not in self.marks

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command with the output that is shown; a script shows none."""
        if self.language != "console":
            yield self.text, ""
            return
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield command, shown


def blocks_of(page: str) -> list[Block]:
    blocks = []
    for found in FENCE.finditer(TEXTS[page]):
        language, *words = found["info"].split() or [""]
        blocks.append(
            Block(
                page=page,
                line=TEXTS[page].count("\n", 0, found.start()) + 1,
                language=language,
                marks=dict(word.split("=", 1) for word in words),
                text=found["text"],
            )
        )
    return blocks


BLOCKS = {page: blocks_of(page) for page in TEXTS}


def pages_that_run(after: str | None) -> list[str]:
    return [
        page
        for page, blocks in BLOCKS.items()
        if any(block.runs and block.marks.get("after") == after for block in blocks)
    ]


def make_shell(folder: Path) -> dict[str, str]:
    """An environment in which `factory` is this checkout's, by a script in `folder`."""
    script = folder / "factory"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m factory "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    path = os.pathsep.join((str(folder), os.environ["PATH"]))
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


def run_blocks(page: str, after: str | None, workspace: Path, shell: dict[str, str]) -> None:
    """Run a page's blocks in order, and compare what they print with what the page shows."""
    for block in BLOCKS[page]:
        if name := block.marks.get("file", block.marks.get("append")):
            (workspace / name).parent.mkdir(parents=True, exist_ok=True)
            with (workspace / name).open("a" if "append" in block.marks else "w") as file:
                file.write(block.text)
        if not block.runs or block.marks.get("after") != after:
            continue
        for command, shown in block.commands():
            done = subprocess.run(
                ["bash", "-euc", command], cwd=workspace, env=shell, capture_output=True, text=True
            )
            printed = done.stderr + done.stdout
            assert done.returncode == int(block.marks.get("exit", 0)), f"{block.where}\n{printed}"
            if shown and "output" not in block.marks:
                assert to_pattern(shown).fullmatch(printed), f"{block.where}\n{printed}"


def to_pattern(shown: str) -> re.Pattern[str]:
    """What is shown as a pattern: `…` is any text of a line, alone on a line any lines."""
    lines = [
        "(?:.*\n)*" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + " *\n"
        for line in shown.splitlines()
    ]
    return re.compile("".join(lines))

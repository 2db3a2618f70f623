"""An upgrade in the middle of a round: an older version begins it, this one goes on.

The older version is a commit of this checkout, exported. Its round is killed twice: while it
samples, and once all samples are there.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.campaign.kills import BOOKS, SECONDS, is_done, kill, shown_stages
from bench.campaign.running import Finding, Running, ask, make_quick, same, start
from factory.workspace.folder import files_sha, shipped_root

MOMENTS = {"while it samples": "sample", "once it trains": "prepare training"}
REFUSED = "prompts or rules have changed"
ENDED = "refused for its prompts and rules; --abandon: exit 0"
"""Where they have changed and samples are missing, as docs/when-something-breaks.md says."""


def export(commit: str, folder: Path) -> Path:
    """The files of a commit. Raises CalledProcessError where it is unknown."""
    packed = subprocess.run(
        ["git", "archive", commit], cwd=shipped_root(), capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def differs(old: Path) -> bool:
    """Whether prompts or rules are others than those of the older version."""
    new = shipped_root()
    return any(
        files_sha(_content(old / name)) != files_sha(_content(new / name))
        for name in ("prompts", "rules")
    )


def _content(folder: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield file.relative_to(folder).as_posix(), file


def begin(running: Running, stage: str) -> bool:
    """Kill a command as soon as it says that it is at a stage; False where it never is."""
    while stage not in shown_stages(running.text()):
        if running.process.poll() is not None:
            return False
        time.sleep(0.02)
    kill(running.process.pid)
    running.wait(60)
    return running.orphans() == 0


def run_upgrade(folder: Path, commit: str, num_queries: int) -> Iterator[Finding]:
    """Rounds that `commit` began, each at one moment, resumed to their end."""
    old = export(commit, folder / "old")
    temp = folder / "t"
    temp.mkdir(exist_ok=True)
    for number, (when, stage) in enumerate(MOMENTS.items()):
        workspace = make_quick(folder / f"upgrade{number}")
        log = folder / f"upgrade{number}.log"
        running = start(workspace, "round", "--n", str(num_queries), log=log, temp=temp, root=old)
        if not begin(running, stage):
            yield same(f"begun by {commit[:7]}, {when}", "killed", running.text()[-90:])
            continue
        running = start(workspace, "round", "--resume", log=log, temp=temp)
        code = running.wait(SECONDS)
        if code == 2 and REFUSED in running.text() and differs(old):
            # Not all samples were there, and those to come would be judged by other rules.
            code = start(workspace, "round", "--abandon", log=log, temp=temp).wait(SECONDS)
            yield same(f"begun by {commit[:7]}, {when}", ENDED, f"{ENDED[:-1]}{code}")
            continue
        if code != 0 and not is_done(workspace):
            error = next((x for x in running.text().splitlines() if "error" in x), "")
            yield same(f"begun by {commit[:7]}, {when}", "resumed", f"exit {code}: {error[:90]}")
            continue
        (books,) = ask(workspace, BOOKS)
        wanted = {"drawn": num_queries, "lost": 0, "twice": 0}
        yield same(f"begun by {commit[:7]}, {when}", wanted, books)

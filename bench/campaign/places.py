"""Odd places: each must do the work or refuse it clearly, and never be our bug.

The work is small: documents are added to the ledger, which is read back; `round` and `doctor`
where a place is odd for them. A place that this machine cannot make is said to be left out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.campaign.kills import BOOKS, is_done, shown_stages
from bench.campaign.running import (
    Finding,
    ask,
    command,
    environment,
    make_quick,
    same,
    start,
)
from factory.lab.home.world import fresh_item

SECONDS = 900.0
ODD_NAMES = {
    "a path with spaces": "with some spaces",
    "a path with brackets": "a[b]{c}(d)",
    "a path with quotes": 'it\'s "quoted" `so`',
    "a path with a backslash": "back\\slash",
    "a path with a question mark": "what?",
    "a path in Unicode": "ü 工具 😀 e\u0301",
    "a path with a line break": "line\nbreak",
    "a path with rich's markup": "[red]x[/red]",
    "a path that looks like an option": "--n",
    "a path with a percent sign and stars": "100%s *.duckdb",
    "a path that is no UTF-8": os.fsdecode(b"caf\xe9"),
}
NUM_TOOLS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and how commands run. Example: Place(folder=…, changes={"TERM": "dumb"})."""

    folder: Path
    changes: Mapping[str, str | None] = field(default_factory=dict)
    """Variables set, or taken away."""
    prefix: Sequence[str] = ()
    shell: str = ""
    """What a shell does before: `umask 077`, `ulimit -f 64`."""

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command there, its streams together."""
        argv = [*self.prefix, *command(*arguments)]
        if self.shell:
            argv = ["sh", "-c", f'{self.shell}; exec "$@"', "sh", *argv]
        return subprocess.run(
            argv, cwd=self.folder, env=environment(None, **self.changes), timeout=SECONDS,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace",
        )  # fmt: skip


def work(place: Place) -> str:
    """`right`, or how it was refused: the exit code and the error's first line."""
    documents = [fresh_item(number).tools[0] for number in range(NUM_TOOLS)]
    lines = "".join(json.dumps(document) + "\n" for document in documents)
    (place.folder / "documents.jsonl").write_text(lines, encoding="utf-8")
    done = place.run("add-tools", "documents.jsonl")
    if done.returncode == 0:
        done = place.run("sql", "select count(*) as n from tool", "--json")
        if done.returncode == 0 and json.loads(done.stdout.splitlines()[-1]) == {"n": NUM_TOOLS}:
            return "right"
    return refusal(done)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """How a command ended that did not do its work."""
    lines = done.stdout.splitlines()
    errors = [
        line for line in lines if line.startswith(("error:", "bad ", "our bug:", "Traceback"))
    ]
    return f"exit {done.returncode}: {' '.join(errors or lines[-1:])[:90]}"


def judge(name: str, found: str, *codes: int) -> Finding:
    """`right`, or a refusal with one of the exit codes; none that is our bug."""
    wanted = " or ".join(["right", *(f"exit {code}" for code in codes)])
    is_right = found == "right" or any(found.startswith(f"exit {code}: error") for code in codes)
    is_left_out = found.startswith("left out")
    return Finding(what=name, wanted=wanted, found=found, is_right=is_right or is_left_out)


def odd_paths(folder: Path) -> Iterator[Finding]:
    """Workspaces with odd names, and one behind a link."""
    for name, odd in ODD_NAMES.items():
        try:
            root = make_quick(folder / odd)
        except OSError as error:
            yield judge(name, f"left out: {error.strerror}")
            continue
        yield judge(name, work(Place(folder=root)), 2)
    real, link = make_quick(folder / "real"), folder / "link"
    link.symlink_to(real)
    yield judge("a workspace behind a link", work(Place(folder=link)))
    deep = make_quick(folder / "/".join(["deep" * 10] * 20))
    yield judge("a path of a thousand letters", work(Place(folder=deep)))


def odd_environments(folder: Path) -> Iterator[Finding]:
    """Variables, limits and masks that others have set."""
    root = make_quick(folder / "plain")
    changes: dict[str, Mapping[str, str | None]] = {
        "LC_ALL=C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        "a Latin-1 terminal": {"PYTHONIOENCODING": "latin-1"},
        "TERM=dumb, no columns": {"TERM": "dumb", "COLUMNS": "1"},
        "HOME unset": {"HOME": None, "XDG_CACHE_HOME": None, "USER": None, "LOGNAME": None},
        "HOME that is not there": {"HOME": "/nonexistent"},
        "an odd TZ": {"TZ": "Asia/Kathmandu"},
        "a TZ that is none": {"TZ": "No/Where"},
        "another launcher's ranks": {"WORLD_SIZE": "8", "RANK": "3", "LOCAL_RANK": "3",
                                     "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1",
                                     "OMPI_COMM_WORLD_SIZE": "8", "SLURM_NTASKS": "8"},
        "proxies": {"http_proxy": "http://192.0.2.1:1", "https_proxy": "http://192.0.2.1:1"},
        "colours by force": {"FORCE_COLOR": "1"},
    }  # fmt: skip
    for name, change in changes.items():
        place = Place(folder=root, changes=change)
        yield judge(name, work(place))
        shutil.rmtree(root / ".factory", ignore_errors=True)
    yield judge("umask 077", work(Place(folder=root, shell="umask 077")))
    shutil.rmtree(root / ".factory", ignore_errors=True)
    few = Place(folder=root, shell="ulimit -n 64")
    yield judge("64 open files", work(few), 3)


def small_places(folder: Path) -> Iterator[Finding]:
    """No space, no right to write, no loopback."""
    yield judge("files of 64 KiB at most", work(
        Place(folder=make_quick(folder / "limited"), shell="ulimit -f 128")), 3)  # fmt: skip
    yield judge("a disk of one MiB", on_small_disk(folder / "disk"), 3)
    yield judge("a read-only folder", read_only(folder / "frozen", "add-tools"), 3)
    yield judge("a read-only folder, doctor", read_only(folder / "frozen2", "doctor"), 3)
    yield judge("no loopback interface", without_loopback(folder / "alone"), 3)


def on_small_disk(folder: Path) -> str:
    """Work on a file system that is full at once."""
    root = make_quick(folder)
    state = root / ".factory"
    state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(state)]
    if (done := subprocess.run(mount, capture_output=True, text=True)).returncode:
        return f"left out: {done.stderr.strip()[:60]}"
    try:
        return work(Place(folder=root))
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def read_only(folder: Path, what: str) -> str:
    """A command in a workspace that is mounted for reading alone: permissions do not stop root."""
    root = make_quick(folder)
    (root / "documents.jsonl").write_text(json.dumps(fresh_item(1).tools[0]), encoding="utf-8")
    for step in (["--bind", str(root), str(root)], ["-o", "remount,ro,bind", str(root)]):
        if (done := subprocess.run(["mount", *step], capture_output=True, text=True)).returncode:
            return f"left out: {done.stderr.strip()[:60]}"
    try:
        done = Place(folder=root).run(*((what, "documents.jsonl") if what != "doctor" else (what,)))
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)
    if done.returncode == 3 and "written to" in done.stdout:
        return (
            "exit 3: error " + next(x for x in done.stdout.splitlines() if "written to" in x)[:80]
        )
    return refusal(done)


def without_loopback(folder: Path) -> str:
    """A benchmark on the embedded model where no interface is up."""
    root = make_quick(folder)
    for unshare in (("unshare", "--net"), ("unshare", "--user", "--map-root-user", "--net")):
        if subprocess.run([*unshare, "true"], capture_output=True).returncode == 0:
            done = Place(folder=root, prefix=unshare).run("score", "few")
            return "right" if done.returncode == 0 else refusal(done)
    return "left out: no network namespace can be made here"


def connections(folder: Path) -> Finding:
    """How many connections to other machines a scoring opens, by strace."""
    name = "connections to other machines while scoring"
    if shutil.which("strace") is None:
        return judge(name, "left out: no strace")
    trace = folder / "trace"
    prefix = ("strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(trace))
    done = Place(folder=make_quick(folder / "traced"), prefix=prefix).run("score", "few")
    if done.returncode:
        return judge(name, refusal(done))
    with trace.open(encoding="utf-8", errors="replace") as lines:
        outside = [line for line in lines if "AF_INET" in line and "127.0.0.1" not in line
                   and '"::1"' not in line]  # fmt: skip
    return judge(name, "right" if not outside else f"exit 0: {len(outside)}: {outside[0][:60]}")


def moved_and_copied(folder: Path) -> Iterator[Finding]:
    """A round whose workspace is copied by `cp -r` and backed up, then moved, while it samples. It
    is resumed; so are its copies in its old place.
    """
    here, there, copy = folder / "here", folder / "there", folder / "copy"
    workspace, log = make_quick(here, "transformers"), folder / "moved.log"
    temp = folder / "t"
    temp.mkdir()
    running = start(workspace, "round", "--n", "4", log=log, temp=temp)
    while "sample" not in shown_stages(running.text()) and running.process.poll() is None:
        time.sleep(0.1)
    shutil.copytree(workspace, copy, ignore_dangling_symlinks=True)
    saved = Place(folder=workspace).run("backup", str(folder / "saved"))
    workspace.rename(there)
    code = running.wait(SECONDS)
    error = next((x for x in running.text().splitlines() if x.startswith("error")), "")
    yield judge("a workspace moved while a round samples", f"exit {code}: {error[:90]}", 3)
    left = [path.name for path in here.rglob("*")]
    yield same("left at its old path", [], left)
    yield judge("its copy by cp -r", refusal(Place(folder=copy).run("status")), 2)
    shutil.rmtree(here, ignore_errors=True)
    copy.rename(here)
    yield judge("the copy in its old place", refusal(Place(folder=here).run("status")), 2)
    yield same("the round, resumed where it is", RESUMED, resumed(there))
    if saved.returncode:
        yield judge("its backup in its old place", refusal(saved))
        return
    shutil.rmtree(here)
    (folder / "saved").rename(here)
    yield same("its backup, resumed in its old place", RESUMED, resumed(here))


RESUMED = {"drawn": 4, "lost": 0, "twice": 0}


def resumed(workspace: Path) -> dict[str, object]:
    """What the books say of the round after it went on to its end, else the exit code."""
    done = Place(folder=workspace).run("round", "--resume")
    return ask(workspace, BOOKS)[0] if is_done(workspace) else {"exit": done.returncode}


PARTS: tuple[Callable[[Path], Iterator[Finding]], ...] = (
    odd_paths, odd_environments, small_places, moved_and_copied,
)  # fmt: skip


def run_places(folder: Path) -> list[Finding]:
    """All places, below a folder that is removed before."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    assert sys.platform == "linux", "mounts, namespaces and strace are Linux's"
    found = [finding for part in PARTS for finding in part(folder)]
    return [*found, connections(folder)]

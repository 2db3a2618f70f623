"""What do samples that are made of accepted ones teach? One round's, a lesson for each way.

    python -m bench.learning /tmp/made
    python -m bench.learning /tmp/made --mixes frames "frames=1 phrases=0.5" --seeds 3 --threads 1
    factory ablate learning --out /tmp/learning

The embedded model samples one round of fresh home requests, without training. Then each mix is a
lesson from the same parent: the round's accepted samples, and so many made of them for each. The
control is the accepted samples alone, the ceiling (`gold`) right labels of as many of the requests.
Held out: 1,200 items of the home world, and 300 that call for no call, of a seed that nothing else
uses. Everything is kept in the folder: a killed run goes on, and trials are not run again. The last
command runs whole rounds, one after the other, by plans/learning.toml.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any, get_args

import tomlkit

from factory.domain.canon import to_json, tool_id
from factory.domain.records import Candidate, Tool
from factory.lab.home.labelled import labelled_rows
from factory.lab.home.world import fresh_item
from factory.ledger import history
from factory.ledger.database import Ledger
from factory.lessons.harder import WAYS, Stock, Way, make

ROUND = (
    "--set",
    "train.min_accepted=1000000",
    "--set",
    'score.dev=""',
    "--set",
    "score.benchmarks=[]",
)
CONTROL, CEILING = "accepted", "gold"
CATALOGUE = 400
"""Documents that distractors are taken from."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=lambda path: Path(path).resolve())
    parser.add_argument("--mixes", nargs="+", default=[f"{way}=1" for way in WAYS])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0)
    given = parser.parse_args()
    workspace = given.out / "workspace"
    if not (workspace / "factory.toml").exists():
        _factory("init", str(workspace))
    threads = ("--threads", str(given.threads))
    if not (workspace / "sampled").exists():
        command = ("round", "--recipe", "cpu", "--n", str(given.requests), *ROUND, *threads)
        _factory(*command, folder=workspace, fails=True)  # nothing is trained: exit code 1
        (workspace / "sampled").touch()
    mixes = {CONTROL: {}, **{mix: _shares(mix) for mix in given.mixes}}
    files = _write_lessons(given.out / "lessons", workspace, mixes)
    plan = given.out / "plan.toml"
    plan.write_text(tomlkit.dumps(_plan(files)), encoding="utf-8")
    trials = ("--out", str(given.out / "trials"), "--discard", "--seeds", str(given.seeds))
    limits = (*threads, "--minutes", str(given.minutes))
    sys.exit(_factory("ablate", str(plan), *trials, *limits, folder=workspace, fails=True))


def _factory(*arguments: str, folder: Path | None = None, fails: bool = False) -> int:
    """Run a command of the package; its exit code."""
    command = [sys.executable, "-m", "factory", *arguments]
    return subprocess.run(command, cwd=folder, check=not fails).returncode


def _shares(mix: str) -> dict[Way, float]:
    """`frames=1 phrases=0.5` as shares; a way without a number is 1."""
    found: dict[Way, float] = {}
    for part in mix.split():
        name, _, share = part.partition("=")
        way: Way | None = next((way for way in get_args(Way) if way == name), None)
        if way is None:
            sys.exit(f"there is no way {name!r}: {', '.join(WAYS)}")
        found[way] = float(share or 1)
    return found


def _write_lessons(
    folder: Path, workspace: Path, mixes: dict[str, dict[Way, float]]
) -> dict[str, Path]:
    """A file of labelled rows for each mix, and the ceiling's."""
    folder.mkdir(exist_ok=True)
    with Ledger(workspace / ".factory").read() as past:
        accepted = history.accepted_samples(past, 1)
        drawn = past.query("select query_id, text from query join draw using (query_id)").rows
    solved = {sample.query.id for sample in accepted}
    requests = [text for _, text in drawn]
    failed = [text for query, text in drawn if query not in solved]
    catalogue = [Tool(id=tool_id(row), document=row) for row in labelled_rows(0, CATALOGUE)]
    stock = Stock(accepted, catalogue, requests, failed)
    files = {}
    for mix, shares in mixes.items():
        rows = list(accepted)
        for way, share in shares.items():
            made = make(way, Random(f"{way} {share}"), stock, round(share * len(accepted)))
            rows += [each.candidate for each in made]
        files[mix] = _write_rows(folder / f"{mix.replace(' ', '+')}.jsonl", map(_row, rows))
    right = map(fresh_item, range(len(accepted)))
    gold = ({"query": i.query, "tools": [*i.tools], "calls": [*i.calls]} for i in right)
    return {**files, CEILING: _write_rows(folder / f"{CEILING}.jsonl", gold)}


def _row(sample: Candidate) -> dict[str, Any]:
    calls = [{"name": call.name, "arguments": call.arguments} for call in sample.calls]
    tools = [tool.document for tool in sample.tools]
    answer = {"answer": sample.answer} if sample.answer else {}
    return {"query": sample.query.text, "tools": tools, "calls": calls, **answer}


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(to_json(row) + "\n" for row in rows), encoding="utf-8")
    return path.resolve()


def _plan(files: dict[str, Path]) -> dict[str, Any]:
    calls = {"name": "calls", "kinds": ["adapt", "gen", "invoke"]}
    return {
        "title": "What is made of accepted samples",
        "recipe": "cpu",
        "model": "rounds/seed",
        "against": CONTROL,
        "text": "requests",
        "set": {"score.dev": "", "codes.coder": "none", "stage": [calls]},
        "benchmark": [
            {"name": "home-unseen", "home": 300, "seed": 1611},
            {"name": "home-unseen-quiet", "abstain": 100, "seed": 1611},
        ],
        "variant": [{"name": name, "teach": [str(path)]} for name, path in files.items()],
    }


if __name__ == "__main__":
    main()

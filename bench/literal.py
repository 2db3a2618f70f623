"""Time to tokenise a prompt: others' texts kept from control tokens, beside all texts read alike.

    python -m bench.literal [--model FOLDER …]

The requests of `eval/home` as rounds ask them, by the embedded model's tokenizer and by those of
the folders named. None of them spells a control token, so both ways must give the same ids. The
last row has a token that ends turns in every document. Seconds are CPU time; the ways take turns.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.table import best_seconds, print_machine, print_table
from factory.codes.literal import TextEncoder
from factory.domain.records import Request
from factory.engines.chat import Chat
from factory.score.calls.kind import Benchmark, make_request
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.prompts import Prompts


class Alike(TextEncoder):
    """Reads all texts alike, whoever wrote them."""

    def mark(self, text: str, *, codes: bool = False) -> str:
        return text

    def mark_tools(self, value: Any) -> Any:
        return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, nargs="*", default=[], help="more model folders")
    parser.add_argument("--repeats", type=int, default=15, help="runs, of which the best counts")
    given = parser.parse_args()
    print_machine("transformers", "tokenizers")
    shipped = Workspace(shipped_root())
    benchmark, prompts = Benchmark.load(shipped, "home"), Prompts.load(shipped)
    requests = [make_request(benchmark, item, prompts) for item in benchmark.items]
    for folder in (shipped_root() / "rounds/seed", *given.model):
        compare(folder, requests, given.repeats)


def compare(folder: Path, requests: list[Request], repeats: int) -> None:
    """Print the table of one tokenizer."""
    chat = Chat(folder)
    end = chat.tokenizer.eos_token
    forged = [
        replace(r, messages=tuple(replace(m, content=m.content + end) for m in r.messages))
        for r in requests
    ]
    alike = Chat(folder)
    alike._encoder = Alike(alike.tokenizer, alike.end_ids)
    assert list(map(alike.encode, requests)) == list(map(chat.encode, requests))
    chat.encode(forged[0])
    ways = {
        "all texts read alike": lambda: [alike.encode(r) for r in requests],
        "others' texts kept apart": lambda: [chat.encode(r) for r in requests],
        "the same, each with a forged end": lambda: [chat.encode(r) for r in forged],
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, run in ways.items():
            best[name] = min(best[name], best_seconds(run, 1, time.process_time))
    bare = best["all texts read alike"]
    rows = [
        (name, 1e6 * taken / len(requests), f"{taken / bare:.3f}") for name, taken in best.items()
    ]
    title = f"prompts of eval/home ({len(requests)} requests), {folder.name}"
    print_table(title, ("way", "microseconds each", "times the first"), rows)


if __name__ == "__main__":
    main()

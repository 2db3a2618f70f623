"""`python -m bench.logs`: memory and speed of reading a log of requests, by its size.

Logs of `--small` and `--large` MiB are made, of rows with a conversation, its tools and its calls.
Each way of reading runs in a process of its own, so that its peak memory is its own. Reading the
file whole is the alternative. The memory of a stream is the same for both sizes, as is that of a
round that draws from it (`round`: every row is read to its calls, what is drawn is kept). `factory
teach` keeps what it teaches: a request and its calls of each row, its tools once for all rows that
have the same.

A file of `--toolgen` MiB is made too, as ToolGen's trajectories are: one array of conversations,
1.6 GB of them. It is read as a stream, as a stream of lessons (what `factory teach` makes of each
row, none of them kept), and by json.load.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.table import Cell, peak_rss_mib, print_machine, print_table
from factory.lessons.files import read_lessons
from factory.lessons.logs import read_pool
from factory.lessons.readers import read_row
from factory.tools.rowfiles import read_rows
from factory.tools.sources import read_values

SMALL_MIB, LARGE_MIB, WHOLE_MIB = 64, 1024, 64
FORMS = ("lines", "array", "pretty")
TOOLGEN_MIB = 1638


def make_rows(seed: int) -> Iterator[dict[str, Any]]:
    """Rows of a chat log, without end."""
    draw = random.Random(seed)
    properties = {"day": {"type": "string"}, "people": {"type": "integer"}}
    tools = [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": f"To {name} {'it ' * 60}",
                "parameters": {"type": "object", "properties": properties},
            },
        }
        for name in ("book_boat", "book_table", "move_meeting")
    ]
    while True:
        number = draw.getrandbits(48)
        arguments = json.dumps({"day": f"day {number}", "people": number % 9})
        call = {
            "id": "c",
            "type": "function",
            "function": {"name": "book_boat", "arguments": arguments},
        }
        yield {
            "messages": [
                {"role": "system", "content": "You book what people ask for. " * 8},
                {
                    "role": "user",
                    "content": f"Book a boat for day {number} and {number % 9} people",
                },
                {"role": "assistant", "content": None, "tool_calls": [call]},
            ],
            "tools": tools,
        }


def make_trajectories(seed: int) -> Iterator[dict[str, Any]]:
    """Rows of ToolGen's, without end: three APIs called one after the other, then Finish."""
    draw = random.Random(seed)

    def said(role: str, content: str) -> dict[str, Any]:
        return {"role": role, "content": content, "loss": role == "assistant"}

    def turns(token: str, given: dict[str, Any], answer: str) -> list[dict[str, Any]]:
        shown: dict[str, Any] = {
            "name": token,
            "description": f"To ask {token}. " * 8,
            "required": [],
        }
        shown["optional"] = [{"name": "day", "type": "STRING", "description": "Which day."}]
        return [
            said("assistant", f"Next I need {token}, because it knows the day. " * 4),
            said("user", "Generate the action."),
            said("assistant", token),
            said("user", f"Please give the input. Here is the documentation: {shown}"),
            said("assistant", json.dumps(given)),
            *([said("tool", answer)] if answer else []),
        ]

    final = {"return_type": "give_answer", "final_answer": "It is done."}
    while True:
        numbers = draw.sample(range(1000), 3)
        steps = [
            turn
            for n in numbers
            for turn in turns(
                f"<<Service {n % 50}&&Api {n}>>",
                {"day": f"day {n}"},
                json.dumps({"error": "", "response": f"all of day {n} " * 40}),
            )
        ]
        asked = said("user", f"Tell me of day {draw.getrandbits(48)}\nBegin!\n")
        rules = said("system", "You are an agent. Generate an action token, then its input. " * 6)
        yield {"conversations": [rules, asked, *steps, *turns("<<Finish>>", final, "")]}


def make_log(path: Path, form: str, size: int) -> None:
    """A file of about `size` bytes."""
    is_array = form in ("array", "toolgen")
    between = ",\n" if is_array else "\n"
    rows = make_trajectories(1) if form == "toolgen" else make_rows(1)
    written = 0
    with path.open("w", encoding="utf-8") as file:
        file.write("[" if is_array else "")
        for row in rows:
            text = json.dumps(row, indent=2 if form == "pretty" else None)
            file.write((between if written else "") + text)
            written += len(text)
            if written > size:
                break
        file.write("]" if is_array else "\n")


DRAWN = 64
"""Requests that a round draws, as `rounds/cpu.toml` has it."""


def read(way: str, path: Path) -> None:
    """Read a log one way, and print how many rows it has, and the memory."""
    before = peak_rss_mib()
    if way == "json.load":
        with path.open(encoding="utf-8") as file:
            count = len(json.load(file))
    elif way == "round":
        count = read_pool([path], wanted=DRAWN).size
    elif way == "teach":
        count = len(read_lessons([path]).items)
    elif way == "lessons":
        values = read_values(path, [])
        count = sum(bool(read_row(value, where)[1]) for where, value in values)
    elif way == "whole":
        count = len([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
    else:
        count = sum(1 for _ in read_rows(path, []))
    print(json.dumps([count, before, peak_rss_mib()]))


def measure(way: str, path: Path) -> list[Cell]:
    """Rows, MiB a second, and the peak memory of a process that does nothing else."""
    code = (
        "import sys, time; from pathlib import Path; from bench.logs import read; "
        "start = time.process_time(); read(sys.argv[1], Path(sys.argv[2])); "
        "print(time.process_time() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, way, str(path)], capture_output=True, text=True, check=True
    )
    first, seconds = done.stdout.splitlines()
    count, before, peak = json.loads(first)
    mib = path.stat().st_size / 2**20
    rate = count / float(seconds)
    return [mib, count, rate, mib / float(seconds), peak, peak - before]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=SMALL_MIB, help="MiB of the smaller logs")
    parser.add_argument("--large", type=int, default=LARGE_MIB, help="MiB of the larger logs")
    parser.add_argument("--whole", type=int, default=WHOLE_MIB, help="most MiB to read whole")
    parser.add_argument("--toolgen", type=int, default=TOOLGEN_MIB, help="MiB of trajectories")
    parser.add_argument("--forms", nargs="*", default=FORMS, choices=FORMS)
    arguments = parser.parse_args()
    print_machine()
    rows: list[list[Cell]] = []
    with tempfile.TemporaryDirectory() as folder:
        for form in arguments.forms:
            for size in (arguments.small, arguments.large):
                path = Path(folder) / f"{form}.jsonl"
                make_log(path, form, size << 20)
                rows.append([form, "stream", *measure("stream", path)])
                if form == "lines":
                    rows.append([form, "round", *measure("round", path)])
                if form == "lines" and size <= arguments.whole:
                    rows += ([form, way, *measure(way, path)] for way in ("teach", "whole"))
                path.unlink()
        if arguments.toolgen:
            path = Path(folder) / "trajectories.json"
            make_log(path, "toolgen", arguments.toolgen << 20)
            for way in ("stream", "lessons", "json.load"):
                rows.append(["toolgen", way, *measure(way, path)])
    columns = ("layout", "way", "MiB", "rows", "rows/s", "MiB/s", "peak MiB", "above start")
    print_table("Logs read", columns, rows)


if __name__ == "__main__":
    main()

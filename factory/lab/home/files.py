"""The home world's held-out items as files in BFCL's format (algorithms §5.5): eval/home.

`home_<category>.json` has one question a line, `possible_answer/home_<category>.json` the allowed
values of every argument. An optional parameter that the request does not mention may be omitted.

They are written anew by: python -m factory.lab.home.files eval/home
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.lab.home.abstain import LACKS, QuietItem, quiet_items
from factory.lab.home.world import CATEGORIES, FreshItem, dev_items, home_items


def to_question(item: FreshItem | QuietItem, number: int) -> dict[str, Any]:
    """The question line of an item; documents say `parameters`, as BFCL does."""
    functions = [
        {
            "name": tool["name"],
            "description": tool["description"],
            "parameters": tool["arguments"],
        }
        for tool in item.tools
    ]
    return {
        "id": f"{item.category}_{number}",
        "question": [[{"role": "user", "content": item.query}]],
        "function": functions,
    }


def to_answer(item: FreshItem, number: int) -> dict[str, Any]:
    """The answer line of an item: for each gold call, the allowed values of each argument."""
    schemas = {tool["name"]: tool["arguments"] for tool in item.tools}
    truth = []
    for call in item.calls:
        schema, allowed = schemas[call["name"]], {}
        for name in schema["properties"]:
            if name in call["arguments"]:
                allowed[name] = [call["arguments"][name]]
            elif name not in schema["required"]:
                allowed[name] = [""]
        truth.append({call["name"]: allowed})
    return {"id": f"{item.category}_{number}", "ground_truth": truth}


def benchmark_files(items: list[FreshItem]) -> dict[str, str]:
    """Text by relative path."""
    files = {}
    for category in CATEGORIES:
        chosen = list(enumerate(item for item in items if item.category == category))
        for folder, make in (("", to_question), ("possible_answer/", to_answer)):
            lines = (json.dumps(make(item, n), ensure_ascii=False) for n, item in chosen)
            files[f"{folder}home_{category}.json"] = "".join(f"{line}\n" for line in lines)
    return files


def quiet_files(items: Sequence[QuietItem]) -> dict[str, str]:
    """Text by relative path: questions whose right answer is no call."""
    files = {}
    for category in LACKS:
        chosen = (item for item in items if item.category == category)
        lines = (to_question(item, n) for n, item in enumerate(chosen))
        text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        files[f"home_{category}.json"] = text
    return files


def dev_quiet_items() -> list[QuietItem]:
    """The gate's set of requests without a call: 40 a category."""
    return quiet_items("dev", 40)


def write_items(folder: Path, items: list[FreshItem]) -> None:
    """Write a set's questions and answers."""
    (folder / "possible_answer").mkdir(parents=True, exist_ok=True)
    for path, text in benchmark_files(items).items():
        (folder / path).write_text(text, encoding="utf-8")


def write_quiet_items(folder: Path, items: Sequence[QuietItem]) -> None:
    """Write a set's questions; the answer to each is no call."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in quiet_files(items).items():
        (folder / path).write_text(text, encoding="utf-8")


def write_benchmark(folder: Path) -> None:
    """Write the benchmark to `folder`, the gate's sets to `folder/dev` and `folder/abstain`."""
    write_items(folder, home_items())
    write_items(folder / "dev", dev_items())
    write_quiet_items(folder / "abstain", dev_quiet_items())


if __name__ == "__main__":
    write_benchmark(Path(sys.argv[1]))

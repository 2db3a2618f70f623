"""The held-out items as files in BFCL's format (algorithms §5.5).

`home_<category>.json` has one question a line, `possible_answer/home_<category>.json` the allowed
values of every argument. An optional parameter that the request does not mention may be omitted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from factory.lab.home.world import CATEGORIES, FreshItem, dev_items, home_items


def to_question(item: FreshItem, number: int) -> dict[str, Any]:
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
        chosen = [item for item in items if item.category == category]
        numbered = list(enumerate(chosen))
        name = f"home_{category}.json"
        files[name] = _lines([to_question(item, number) for number, item in numbered])
        files[f"possible_answer/{name}"] = _lines(
            [to_answer(item, number) for number, item in numbered]
        )
    return files


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_benchmark(folder: Path) -> None:
    """Write the benchmark to `folder` and the development set to `folder/dev`."""
    for target, items in ((folder, home_items()), (folder / "dev", dev_items())):
        for path, text in benchmark_files(items).items():
            file = target / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")

"""Gold calls of public data sets against their own schemas: what falls, and why.

    python -m bench.gold            # every set, and how CallNavi differs from a shallow judgement
    python -m bench.gold --rows     # every call that falls, with path and message

Each call is judged by factory.judge and, independently, by plain jsonschema on a schema that is
made here. Sets that are not in ../shared/data are named and left out.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from bench.table import print_machine, print_table
from factory.domain.canon import tool_id
from factory.domain.records import Call, Tool, Verdict
from factory.judge.parsed import ParsedCalls
from factory.judge.rulebook import Rulebook
from factory.judge.verdicts import check_calls
from factory.tools.dialects import read_dialect
from factory.workspace.folder import Workspace, shipped_root

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SHALLOW_CALLNAVI = {
    "unknown_argument": 179,
    "wrong_type": 44,
    "unknown_tool": 6,
    "missing_required": 3,
}
"""How many CallNavi calls fall, and why, where only names and types of the top level count."""

_WORDS = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "dict": "object",
    "any": ["string", "number", "boolean", "array", "object", "null"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldCall:
    """One call that a data set calls right, with the tools it was made from."""

    where: str
    """Row id and number of the call in it."""
    call: Call
    """Name and arguments."""
    tools: Mapping[str, Tool]
    """Candidates by name."""


def read_seal_tools() -> Iterator[GoldCall]:
    """Seal-Tools dev: each call with the one tool that it names."""
    folder = DATA / "seal_tools" / "Seal-Tools_Dataset"
    tools: dict[str, Tool] = {}
    for line in _lines(folder / "tool.jsonl"):
        tools |= make_tools(read_dialect(line))
    for row in _lines(folder / "dev.jsonl"):
        for index, call in enumerate(row["calling"]):
            yield GoldCall(
                where=f"{row['id']}[{index}]",
                call=Call(name=call["api"], arguments=call["parameters"]),
                tools={call["api"]: tools[call["api"]]},
            )


def read_callnavi() -> Iterator[GoldCall]:
    """CallNavi: each call with all tools of its domain.

    101 telecommunications tools have the schema of an array of strings, which names no parameter:
    they are taken as tools without any.
    """
    folder = DATA / "callnavi" / "Dataset"
    for path in sorted(folder.glob("Questions/*.json")):
        tools: dict[str, Tool] = {}
        for row in _read(folder / "APISchema" / path.name):
            schema = row["parameters"]
            named = schema if schema["type"] == "object" else {"type": "object"}
            tools |= make_tools(read_dialect({**row, "parameters": named}))
        for row in _read(path):
            gold = row["ground_truth"]
            pairs = zip(gold["API"], gold["parameters"], strict=False)  # Six rows lack arguments.
            for index, (name, arguments) in enumerate(pairs):
                call = Call(name=name, arguments=arguments)
                yield GoldCall(where=f"{row['id']}[{index}]", call=call, tools=tools)


def read_sgd() -> Iterator[GoldCall]:
    """SGD: each service call of the human-worded dialogues with the service's own intents."""
    folder = DATA / "sgd" / "train"
    services = {
        service["service_name"]: make_tools(read_dialect(service))
        for service in (_read(folder / "schema.json") if folder.exists() else ())
    }
    for path in sorted(folder.glob("dialogues_*.json")):
        for dialogue in _read(path):
            for number, turn in enumerate(dialogue["turns"]):
                for frame in turn["frames"]:
                    if made := frame.get("service_call"):
                        yield GoldCall(
                            where=f"{dialogue['dialogue_id']}[{number}]",
                            call=Call(name=made["method"], arguments=made["parameters"]),
                            tools=services[frame["service"]],
                        )


SETS: dict[str, Callable[[], Iterator[GoldCall]]] = {
    "Seal-Tools dev": read_seal_tools,
    "CallNavi": read_callnavi,
    "SGD train": read_sgd,
}


def judge(gold: GoldCall, rulebook: Rulebook) -> tuple[Verdict, ...]:
    """What the rules say of one gold call."""
    return check_calls(
        ParsedCalls(text="", calls=(gold.call,)), list(gold.tools.values()), rulebook=rulebook
    )


def judge_plainly(gold: GoldCall) -> bool:
    """Whether the tool exists and plain jsonschema takes the arguments, objects closed."""
    tool = gold.tools.get(gold.call.name)
    return tool is not None and Draft202012Validator(close(tool.arguments)).is_valid(
        gold.call.arguments
    )


def judge_shallowly(gold: GoldCall) -> str:
    """The first fault among the names and types of the top level, or nothing."""
    tool = gold.tools.get(gold.call.name)
    if tool is None:
        return "unknown_tool"
    properties, given = tool.arguments["properties"], gold.call.arguments
    if given.keys() - properties.keys():
        return "unknown_argument"
    if set(tool.arguments["required"]) - given.keys():
        return "missing_required"
    kinds = {name: {"type": close(part)["type"]} for name, part in properties.items()}
    fits = all(Draft202012Validator(kinds[name]).is_valid(part) for name, part in given.items())
    return "" if fits else "wrong_type"


def close(schema: Any) -> Any:
    """JSON Schema of a document's part: words mapped, objects that name properties closed."""
    if isinstance(schema, list):
        return [close(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: close(part) for key, part in schema.items() if key not in ("enum", "default")}
    if "enum" in schema:
        out["enum"] = schema["enum"]
    if isinstance(schema.get("type"), str):
        out["type"] = _WORDS.get(schema["type"], schema["type"])
    if isinstance(schema.get("properties"), dict):
        out["properties"] = {name: close(part) for name, part in schema["properties"].items()}
        if out["properties"] or "required" in schema:
            out.setdefault("additionalProperties", False)
    return out


def make_tools(documents: tuple[dict[str, Any], ...]) -> dict[str, Tool]:
    """Tools of documents, by name."""
    return {one["name"]: Tool(id=tool_id(one), document=one) for one in documents}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", action="store_true", help="print every call that falls")
    arguments = parser.parse_args()
    print_machine("jsonschema")
    rulebook = Rulebook.load(Workspace(shipped_root()))
    rows = []
    for name, read in SETS.items():
        calls = list(read())
        if not calls:
            print(f"{name} is not in {DATA}")
            continue
        found = [judge(gold, rulebook) for gold in calls]
        plain = [judge_plainly(gold) for gold in calls]
        accepted = sum(not verdicts for verdicts in found)
        differ = sum((not ours) != theirs for ours, theirs in zip(found, plain, strict=True))
        share = f"{100 * accepted / len(calls):.1f}"
        rows.append((name, len(calls), accepted, share, sum(plain), differ))
        _print_reasons(name, found)
        if name == "CallNavi":
            _print_shallow(calls, found, plain)
        if arguments.rows:
            _print_rows(name, calls, found)
    columns = ("set", "calls", "accepted", "percent", "accepted by plain jsonschema", "differ")
    print_table("gold calls that fit their own schema", columns, rows)


def _print_reasons(name: str, found: list[tuple[Verdict, ...]]) -> None:
    counts = Counter(verdicts[0].reason for verdicts in found if verdicts)
    if counts:
        print_table(f"{name}: first reason of each call that falls", ("reason", "calls"),
                    counts.most_common())  # fmt: skip


def _print_shallow(
    calls: list[GoldCall], found: list[tuple[Verdict, ...]], plain: list[bool]
) -> None:
    shallow = [judge_shallowly(gold) for gold in calls]
    counts = Counter(filter(None, shallow))
    accepted = len(calls) - counts.total()
    title = f"CallNavi judged at the top level only: {accepted} of {len(calls)} fit"
    rows = [(reason, counts[reason], SHALLOW_CALLNAVI[reason]) for reason in SHALLOW_CALLNAVI]
    print_table(title, ("reason", "calls", "published"), rows)
    deeper = [
        (gold.where, gold.call.name, verdicts[0].path, verdicts[0].message, "no" if fits else "yes")
        for gold, verdicts, reason, fits in zip(calls, found, shallow, plain, strict=True)
        if verdicts and not reason
    ]
    columns = ("call", "tool", "path", "message", "falls by plain jsonschema too")
    print_table(f"CallNavi: {len(deeper)} more fall inside an object", columns, deeper)


def _print_rows(name: str, calls: list[GoldCall], found: list[tuple[Verdict, ...]]) -> None:
    rows = [
        (gold.where, verdict.reason, verdict.path, verdict.message)
        for gold, verdicts in zip(calls, found, strict=True)
        for verdict in verdicts
    ]
    print_table(f"{name}: every finding", ("call", "reason", "path", "message"), rows)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _lines(path: Path) -> list[Any]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


if __name__ == "__main__":
    main()

"""`python -m bench.schemas [FILE…]`: our verdict of calls beside that of plain `jsonschema`.

Each tool of the files (`../shared/data/mcp_servers`, as its server wrote it, and each operation of
`../shared/data/openapi`, as it is imported) gets calls made after its schema: one that fits,
without each name, with each value of another kind, with a name that is not there. Where the
verdicts differ, the keyword that ours broke on, or plain's, says why: REASONS has all of them, and
a difference without one ends the bench with exit code 1. `--show` prints every difference of one
keyword.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from bench.table import print_machine, print_table
from factory.domain.jsontext import show
from factory.tools.dialects import read_dialect
from factory.tools.schema import read_document, respell
from factory.tools.sources import read_tools

SHARED = (Path("../shared/data/mcp_servers/servers.jsonl"), Path("../shared/data/openapi"))
CLOSED = "an argument that no part of a schema names is an invented one"
WHOLE = "5.0 is no integer: a function that takes an int gets a float"
ASSERTED = "formats are asserted: a call with no date for a date fails where it is made"
REASONS = {
    "additionalProperties, only ours": CLOSED,
    "type, only ours": WHOLE,
    "format, only ours": ASSERTED,
    "anyOf, only ours": "a part that it fits by plain breaks for one of the other reasons",
    "oneOf, only ours": "a part that it fits by plain breaks for one of the other reasons",
}
"""Why a verdict may differ, by the keyword that was broken and by whom."""
OTHERS: tuple[Any, ...] = ("text", 5, 5.0, 1.5, True, None, [], {}, ["text"], {"a": 1})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.schemas")
    parser.add_argument("files", type=Path, nargs="*", default=SHARED)
    parser.add_argument("--show", default="", help="print the differences of this keyword")
    options = parser.parse_args()
    print_machine("jsonschema")
    unknown = False
    for file in options.files:
        started = time.monotonic()
        compared = compare(file, options.show)
        print(
            f"{file.name}: {compared.tools} tools, {compared.calls} calls judged twice in "
            f"{time.monotonic() - started:.1f} s, of which {compared.right} fit"
        )
        rows = [
            (key, count, REASONS.get(key, "no reason"))
            for key, count in compared.found.most_common()
        ]
        print_table("verdicts that differ", ("broken keyword", "calls", "reason"), rows)
        unknown = unknown or not compared.found.keys() <= REASONS.keys()
    raise SystemExit(int(unknown))


class Compared(NamedTuple):
    """What came of a file: its tools, calls, those that fit by ours, and verdicts that differ."""

    tools: int
    calls: int
    right: int
    found: Counter[str]


def compare(file: Path, shown: str = "") -> Compared:
    """Both verdicts of made calls of each tool; differences of the keyword `shown` are printed."""
    tools = calls = right = 0
    found: Counter[str] = Counter()
    for name, schema, document in _imported(file) if file.is_dir() else _tools(file):
        plain = validator_for(schema, default=Draft202012Validator)(schema)
        ours = read_document(document).validator
        tools += 1
        for call in _variants(schema):
            calls += 1
            ours_error, plain_error = (next(each.iter_errors(call), None) for each in (ours, plain))
            right += ours_error is None
            if (ours_error is None) == (plain_error is None):
                continue
            error, side = (ours_error, "ours") if ours_error else (plain_error, "plain")
            key = f"{error.validator}, only {side}" if error else ""
            found[key] += 1
            if shown and key.startswith(shown):
                print(name, show(call, 200), error and error.message[:200])
    return Compared(tools, calls, right, found)


Tools = Iterator[tuple[str, dict[str, Any], dict[str, Any]]]
"""Name, schema for plain jsonschema, and document."""


def _tools(file: Path) -> Tools:
    """Tools of a dump of servers whose schema says what a call is."""
    for line in file.read_text(encoding="utf-8").split("\n"):
        for tool in json.loads(line)["tools"] if line.strip() else ():
            if isinstance(tool.get("input_schema"), dict):
                (document,) = read_dialect(tool)
                yield tool["name"], tool["input_schema"], document


def _imported(folder: Path) -> Tools:
    """Operations of a folder of OpenAPI documents: no schema of theirs says what a call is."""
    for tool in read_tools(folder).items:
        yield tool.name, respell(tool.arguments), tool.document


def _variants(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    properties = schema.get("properties") or {}
    fits = {name: _example(part) for name, part in properties.items()}
    yield fits
    yield fits | {"name_of_nothing": 1}
    for name in properties:
        yield {key: value for key, value in fits.items() if key != name}
        for value in OTHERS:
            yield fits | {name: value}


def _example(schema: Any) -> Any:
    """A value that is likely to fit."""
    if not isinstance(schema, dict):
        return "text"
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return _example(schema[key][0])
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object" or "properties" in schema:
        return {name: _example(part) for name, part in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [_example(schema.get("items", {}))] * max(1, schema.get("minItems", 1))
    low = schema.get("minimum", 1)
    plain = {"integer": low, "number": low, "boolean": True, "null": None}
    return plain.get(str(kind), "text" + "x" * max(0, schema.get("minLength", 0) - 4))


if __name__ == "__main__":
    main()

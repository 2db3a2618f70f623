"""`python -m bench.schemas [FILE…]`: our verdict of calls beside that of plain `jsonschema`.

Each tool of the files (`../shared/data/mcp_servers`, as its server wrote it) gets calls made after
its schema: one that fits, without each name, with each value of another kind, with a name that is
not there. Where the verdicts differ, the keyword that ours broke on, or plain's, says why;
tests/tools/test_keywords.py holds the reasons. `--show` prints every difference of one keyword.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from bench.table import print_machine, print_table
from factory.domain.jsontext import show
from factory.tools.dialects import read_dialect
from factory.tools.schema import read_document

SHARED = Path("../shared/data/mcp_servers/servers.jsonl")
OTHERS: tuple[Any, ...] = ("text", 5, 5.0, 1.5, True, None, [], {}, ["text"], {"a": 1})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.schemas")
    parser.add_argument("files", type=Path, nargs="*", default=[SHARED])
    parser.add_argument("--show", default="", help="print the differences of this keyword")
    options = parser.parse_args()
    print_machine("jsonschema")
    started, calls, tools = time.monotonic(), 0, 0
    found: Counter[str] = Counter()
    for document in (tool for file in options.files for tool in _tools(file)):
        schema = document["input_schema"]
        plain = validator_for(schema, default=Draft202012Validator)(schema)
        (ours_document,) = read_dialect(document)
        ours = read_document(ours_document).validator
        tools += 1
        for call in _variants(schema):
            calls += 1
            ours_error, plain_error = (next(each.iter_errors(call), None) for each in (ours, plain))
            if (ours_error is None) == (plain_error is None):
                continue
            error, side = (ours_error, "ours") if ours_error else (plain_error, "plain")
            key = f"{error.validator}, only {side}" if error else ""
            found[key] += 1
            if options.show and key.startswith(options.show):
                print(document["name"], show(call, 200), error and error.message[:200])
    seconds = time.monotonic() - started
    print(f"{tools} tools, {calls} calls judged twice in {seconds:.1f} s")
    print_table("verdicts that differ", ("broken keyword", "calls"), found.most_common())


def _tools(file: Path) -> Iterator[dict[str, Any]]:
    """Tools of a dump of servers whose schema says what a call is."""
    for line in file.read_text(encoding="utf-8").split("\n"):
        for tool in json.loads(line)["tools"] if line.strip() else ():
            if isinstance(tool.get("input_schema"), dict):
                yield tool


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

"""`python -m bench.openapi`: operations a second of an OpenAPI document, made into tools.

A document of `--num` operations is made: path, query and header parameters, bodies by reference
three schemas deep, allOf, nullable, a circle, and results. Parsing the same text alone is the
alternative; `factory add-tools` does both, and judges and stores what it reads. With `--data`, the
folder's real documents are read too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.table import Cell, best_seconds, print_machine, print_table
from factory.cli.data import find_fault
from factory.tools.dialects import find_tools
from factory.tools.sources import read_tools
from factory.tools.yamltext import load_yaml

SHARED = Path("../shared/data/openapi")


def make_spec(num: int) -> dict[str, Any]:
    """A document of `num` operations over num // 10 schemas."""
    schemas: dict[str, Any] = {
        "Money": {
            "type": "object",
            "properties": {
                "amount": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
                "unit": {"type": "string", "enum": ["EUR", "USD"], "nullable": True},
            },
            "required": ["amount"],
        },
        "Node": {
            "type": "object",
            "properties": {
                "next": {"$ref": "#/components/schemas/Node"},
                "note": {"type": "string"},
            },
        },
    }
    for number in range(max(1, num // 10)):
        own = {
            f"field_{index}": {"type": "string", "description": f"Field {index} of {number}."}
            for index in range(6)
        }
        references = {
            "price": {"$ref": "#/components/schemas/Money"},
            "node": {"$ref": "#/components/schemas/Node"},
            "id": {"type": "integer", "readOnly": True},
        }
        properties: dict[str, Any] = {**own, **references}
        whole = {"type": "object", "properties": properties, "required": ["price", "id"]}
        base = {"$ref": f"#/components/schemas/Thing{number - 1}"} if number % 3 else {}
        schemas[f"Thing{number}"] = {"allOf": [base, whole]} if base else whole
    paths = {}
    for number in range(num):
        thing = {"$ref": f"#/components/schemas/Thing{number // 10}"}
        content = {"application/json": {"schema": thing}}
        paths[f"/things{number}/{{id}}"] = {
            "post": {
                "operationId": f"changeThing{number}",
                "summary": f"Change thing {number}",
                "parameters": [
                    {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
                    {"name": "dry", "in": "query", "schema": {"type": "boolean"}},
                    {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
                ],
                "requestBody": {"required": True, "content": content},
                "responses": {"200": {"description": "ok", "content": content}},
            }
        }
    info = {"title": "Things", "version": "1"}
    return {"openapi": "3.0.3", "info": info, "paths": paths, "components": {"schemas": schemas}}


def measure(name: str, text: str, repeats: int) -> list[list[Cell]]:
    """Rows of one document: its text parsed, its tools read, and both with each tool checked."""
    load = json.loads if text.startswith("{") else lambda text: next(load_yaml(text))
    value = load(text)
    num = sum(found.document is not None for found in find_tools(value))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_text(text, encoding="utf-8")
        ways = {
            "parse the text alone": lambda: load(text),
            "make tools of the value": lambda: list(find_tools(value)),
            "read_tools: both, checked": lambda: read_tools(file, find_fault),
        }
        seconds = {way: best_seconds(run, repeats, time.process_time) for way, run in ways.items()}
    alone = seconds["parse the text alone"]
    return [[name, way, num, num / took, took / alone] for way, took in seconds.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=5000, help="operations of the made document")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of OpenAPI documents")
    arguments = parser.parse_args()
    print_machine("PyYAML")
    spec = json.dumps(make_spec(arguments.num))
    rows = measure("made.json", spec, arguments.repeats)
    for path in sorted(arguments.data.glob("*/*/*")) if arguments.data.exists() else ():
        rows += measure(path.name, path.read_text(encoding="utf-8"), arguments.repeats)
    columns = ("document", "way", "operations", "operations/s", "ratio")
    print_table("OpenAPI documents into tools", columns, rows)


if __name__ == "__main__":
    main()

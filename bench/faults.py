"""Generated calls with planted faults: is each found under its own reason, and no clean call?

    python -m bench.faults                 # 100,000 calls
    python -m bench.faults --num 5000 --seed 3

Calls are made from real documents (Seal-Tools, CallNavi, SGD, BFCL: those that are there, else the
home world's), some of them with a pattern, a format, a range or a length added. Plain jsonschema
judges the same arguments; the two may differ only where JSON Schema takes 5.0 for an integer.
Exits 1 where anything is missed.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from bench.gold import DATA, close
from bench.table import print_machine, print_table
from factory.domain.canon import tool_id
from factory.domain.jsontext import json_path
from factory.domain.records import Tool
from factory.judge.reading import parse_calls
from factory.judge.rulebook import Rulebook
from factory.judge.verdicts import check_calls, check_document
from factory.lab.home.world import fresh_item
from factory.tools.dialects import read_dialect
from factory.workspace.folder import Workspace, shipped_root

Document = dict[str, Any]
Parts = tuple[str | int, ...]

UNSOUND = {"schema_invalid", "prop_type_unknown", "enum_type_mismatch", "default_type_mismatch"}
UNSOUND |= {"required_unknown", "array_without_items", "args_not_dict", "too_many_params"}
"""Reasons for which a document is not taken: no call can be right by it."""
MISFITS: dict[str, list[Any]] = {
    "string": [7, True, None, 1.5, ["a"], {"a": "b"}],
    "integer": ["5", True, False, 5.0, 1.5, None, [5]],
    "float": ["1.5", True, None, [1.5], {}],
    "boolean": ["true", 1, 0, None, []],
    "array": ["a", 3, None, {"a": 1}],
    "dict": ["a", 3, None, [1]],
    "null": ["null", 0, False],
}
"""Values that a type must not take; nothing is coerced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """One answer with at most one fault. Example: Planted(text="<tool_call>…", fault="", …)."""

    text: str
    """The answer as a model would write it."""
    tools: list[Tool]
    """Candidates."""
    fault: str = ""
    """Reason that must be found, empty for a clean call."""
    path: str = "$"
    """JSON path that the verdict must name."""
    finish_reason: str = "stop"
    """`length` for an answer that was cut."""
    query: str = ""
    """The request, where a value must stand in it."""
    beside: frozenset[str] = frozenset()
    """Reasons that the same fault brings with it."""


def read_documents() -> list[Document]:
    """Sound documents of the sets that are here, each with the keyword it was given, if any."""
    found = [*_read_files()]
    if not found:
        found = [document for number in range(300) for document in fresh_item(number).tools]
    rulebook = Rulebook.load(Workspace(shipped_root()))
    return [one for one in found if is_sound(one, rulebook)]


def is_sound(document: Document, rulebook: Rulebook) -> bool:
    """Whether calls can be judged by the document, however poor its descriptions are."""
    reasons = {verdict.reason for verdict in check_document(document, rulebook=rulebook)}
    return not reasons & UNSOUND and _can_make(document["arguments"])


def make_calls(documents: Sequence[Document], seed: int) -> Iterator[Planted]:
    """Answers without end, four in ten of them clean."""
    rng = random.Random(seed)
    faults = list(FAULTS.values())
    while True:
        plant = plant_nothing if rng.random() < 0.4 else rng.choice(faults)
        planted = None
        while planted is None:  # Not every document has room for every fault.
            document = add_limits(rng.choice(documents), rng)
            planted = plant(document, make_value(document["arguments"], rng), rng)
        yield planted


def find_miss(planted: Planted, rulebook: Rulebook) -> str:
    """What is wrong with the verdicts on an answer; empty where they say just what was planted."""
    verdicts = check_calls(
        planted.text,
        planted.tools,
        rulebook=rulebook,
        query=planted.query,
        finish_reason=planted.finish_reason,
    )
    found = {verdict.reason for verdict in verdicts}
    if found - planted.beside != ({planted.fault} if planted.fault else set()):
        return f"wanted {planted.fault or 'nothing'}, found {sorted(found)}: {planted.text[:300]}"
    paths = [verdict.path for verdict in verdicts if verdict.reason == planted.fault]
    if planted.fault and planted.path not in paths:
        return f"wanted {planted.path}, found {paths}: {planted.text[:300]}"
    return ""


def judge_plainly(planted: Planted) -> bool | None:
    """Whether plain jsonschema takes the arguments of every call; None where there are none."""
    by_name = {tool.name: tool for tool in planted.tools}
    calls = parse_calls(planted.text).calls
    if not calls or any(call.name not in by_name for call in calls):
        return None
    return all(
        Draft202012Validator(
            close(by_name[call.name].arguments), format_checker=Draft202012Validator.FORMAT_CHECKER
        ).is_valid(call.arguments)
        for call in calls
    )


def _read_files() -> Iterator[Document]:
    values: list[Any] = []
    seal = DATA / "seal_tools" / "Seal-Tools_Dataset" / "tool.jsonl"
    if seal.exists():
        values += map(json.loads, seal.read_text(encoding="utf-8").splitlines())
    files = sorted(DATA.glob("callnavi/Dataset/APISchema/*.json"))
    for path in [*files, *sorted((DATA / "sgd").rglob("schema.json"))]:
        values += json.loads(path.read_text(encoding="utf-8"))
    for value in [*values, *_read_bfcl()]:
        try:
            yield from read_dialect(value)
        except ValueError:
            continue  # CallNavi's schemas of arrays name no argument.


def _read_bfcl() -> Iterator[Any]:
    spec = find_spec("bfcl_eval")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in sorted((Path(folder) / "data").glob("BFCL_v4_*.json")):
            if "format_sensitivity" not in path.name:
                for line in path.read_text(encoding="utf-8").splitlines():
                    yield from json.loads(line).get("function", ())


def _can_make(schema: Any) -> bool:
    """Whether make_value knows every keyword of the schema."""
    if isinstance(schema, list):
        return all(_can_make(part) for part in schema)
    if not isinstance(schema, dict):
        return True
    known = {"type", "properties", "required", "items", "enum", "description", "default"}
    known |= {"minimum", "maximum", "minItems", "maxItems", "optional", "title", "example"}
    parts = schema.get("properties", {})
    return (
        schema.keys() <= known
        and isinstance(schema.get("type"), str)
        and all(_can_make(part) for part in parts.values())
        and ("items" not in schema or _can_make(schema["items"]))
    )


def add_limits(document: Document, rng: random.Random) -> Document:
    """A copy in which one argument has a keyword that documents seldom carry; often none."""
    properties = document["arguments"]["properties"]
    free = [name for name, part in properties.items() if not part.keys() & {"enum", "default"}]
    free = [name for name in free if properties[name]["type"] in LIMITS]
    if not free or rng.random() < 0.5:
        return document
    document = copy.deepcopy(document)
    part = document["arguments"]["properties"][rng.choice(free)]
    part |= rng.choice(LIMITS[part["type"]])
    return document


LIMITS: dict[str, list[Document]] = {
    "string": [
        {"pattern": "^[a-z]{3,8}( [a-z]+)*$"},
        {"format": "date"},
        {"minLength": 3, "maxLength": 40},
    ],
    "integer": [{"minimum": -5, "maximum": 500}, {"exclusiveMinimum": 0}, {"multipleOf": 4}],
    "float": [{"minimum": 0, "maximum": 99.5}],
    "array": [{"minItems": 1, "maxItems": 4}],
}


BOUNDS = {"enum", *(key for limits in LIMITS.values() for one in limits for key in one)}
"""Keywords that a value of another type breaks too."""


def make_value(schema: Document, rng: random.Random) -> Any:
    """A value that fits the schema."""
    if "enum" in schema:
        return rng.choice(schema["enum"])
    match schema["type"]:
        case "dict":
            return _make_object(schema, rng)
        case "array":
            least, most = schema.get("minItems", 1), schema.get("maxItems", 4)
            items = schema.get("items", {"type": "any"})
            count = rng.randint(least, max(least, min(most, 3)))
            return [make_value(items, rng) for _ in range(count)]
        case "integer":
            step = schema.get("multipleOf", 1)
            least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
            return rng.randint(-(-least // step), int(schema.get("maximum", 500)) // step) * step
        case "float":
            least, most = schema.get("minimum", -50), schema.get("maximum", 50)
            value: float = rng.choice([round(rng.uniform(least, most), 2), int(least), int(most)])
            return min(max(value, least), most)
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
        case "string":
            return _make_text(schema, rng)
        case _:
            return rng.choice(["word", 4, 2.5, True, None, ["a", 1], {"key": "value"}])


def _make_object(schema: Document, rng: random.Random) -> Document:
    names = schema.get("properties", {})
    given = [name for name in names if name in schema.get("required", ()) or rng.random() < 0.6]
    rng.shuffle(given)
    return {name: make_value(names[name], rng) for name in given}


def _make_text(schema: Document, rng: random.Random) -> str:
    if "format" in schema:
        return f"20{rng.randint(10, 29)}-0{rng.randint(1, 9)}-1{rng.randint(0, 9)}"
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 7))) for _ in range(2)]
    if "pattern" not in schema and "maxLength" not in schema and rng.random() < 0.2:
        words.append(rng.choice(["Zoë's", '"quoted"', "a\nb", "</tool>", "API_call_0", "7", "😀"]))
    return " ".join(words)


def write(name: str, arguments: object) -> str:
    """One call block."""
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def plant_nothing(document: Document, arguments: Document, rng: random.Random) -> Planted:
    return _plant(document, arguments)


def _plant(
    document: Document, arguments: object, fault: str = "", parts: Parts = (), **rest: Any
) -> Planted:
    """A single call; `parts` is the path below its arguments."""
    path = json_path((0, "arguments", *parts))
    text = write(document["name"], arguments)
    return Planted(text=text, tools=[_tool(document)], fault=fault, path=path, **rest)


def _tool(document: Document) -> Tool:
    return Tool(id=tool_id(document), document=document)


def _given(document: Document, arguments: Document, *kinds: str) -> list[str]:
    """Arguments of these types that are given, and bound to nothing but the type."""
    properties = document["arguments"]["properties"]
    return [
        name
        for name in arguments
        if properties[name]["type"] in kinds
        and not properties[name].keys() & BOUNDS
        and not properties[name].get("items", {}).keys() & BOUNDS
    ]


def plant_unknown_tool(document: Document, arguments: Document, rng: random.Random) -> Planted:
    name = document["name"]
    wrong = rng.choice([f"{name}s", name.swapcase(), f" {name}", name[:-1], "; drop table x;--"])
    if wrong == name:
        wrong = f"{name}2"
    text = write(wrong, arguments)
    tools = [_tool(document)]
    return Planted(text=text, tools=tools, fault="unknown_tool", path="$[0].name")


def plant_unknown_argument(document: Document, arguments: Document, rng: random.Random) -> Planted:
    name = rng.choice(["zz_invented", "", "__proto__", "a b", *(f"{key}_" for key in arguments)])
    while name in document["arguments"]["properties"]:
        name += "_"
    return _plant(document, arguments | {name: 1}, "unknown_argument", (name,))


def plant_missing(document: Document, arguments: Document, rng: random.Random) -> Planted | None:
    required = document["arguments"]["required"]
    if not required:
        return None
    name = rng.choice(required)
    left = {key: value for key, value in arguments.items() if key != name}
    return _plant(document, left, "missing_required", (name,))


def plant_type(document: Document, arguments: Document, rng: random.Random) -> Planted | None:
    names = _given(document, arguments, *MISFITS)
    if not names:
        return None
    name = rng.choice(names)
    wrong = rng.choice(MISFITS[document["arguments"]["properties"][name]["type"]])
    return _plant(document, arguments | {name: wrong}, "wrong_type", (name,))


def plant_enum(document: Document, arguments: Document, rng: random.Random) -> Planted | None:
    properties = document["arguments"]["properties"]
    names = [name for name in arguments if "enum" in properties[name]]
    names = [name for name in names if properties[name]["type"] == "string"]
    if not names:
        return None
    name = rng.choice(names)
    wrong = rng.choice(["none of these", "", str(arguments[name]) + " ", str(arguments[name])[:-1]])
    if wrong in properties[name]["enum"]:
        return None
    return _plant(document, arguments | {name: wrong}, "enum_violation", (name,))


def plant_item(document: Document, arguments: Document, rng: random.Random) -> Planted | None:
    properties = document["arguments"]["properties"]
    names = [name for name in _given(document, arguments, "array") if arguments[name]]
    names = [name for name in names if properties[name]["items"].get("type") in MISFITS]
    if not names:
        return None
    name = rng.choice(names)
    index = rng.randrange(len(arguments[name]))
    items = list(arguments[name])
    items[index] = rng.choice(MISFITS[properties[name]["items"]["type"]])
    return _plant(document, arguments | {name: items}, "array_item_type", (name, index))


def plant_nested(document: Document, arguments: Document, rng: random.Random) -> Planted | None:
    properties = document["arguments"]["properties"]
    names = [name for name in _given(document, arguments, "dict") if arguments[name]]
    names = [name for name in names if properties[name].get("properties")]
    if not names:
        return None
    name = rng.choice(names)
    inner, schema = dict(arguments[name]), properties[name]
    key = rng.choice(list(inner))
    typed = schema["properties"][key]["type"]
    kind = rng.choice(["invent", "drop", "type"])
    if kind == "type" and typed in MISFITS and "enum" not in schema["properties"][key]:
        inner[key] = rng.choice(MISFITS[typed])
    elif kind == "drop" and key in schema.get("required", ()):
        del inner[key]
    else:
        key = "zz_invented"
        inner[key] = 1
    return _plant(document, arguments | {name: inner}, "object_nested_schema", (name, key))


def plant_limit(document: Document, arguments: Document, rng: random.Random) -> Planted | None:
    properties = document["arguments"]["properties"]
    for name in arguments:
        part = properties[name]
        if "enum" in part:
            continue
        if "maxItems" in part:
            wrong = arguments[name][:1] * 5
        else:
            wrong = next((value for key, value in BREAKS.items() if key in part), None)
        if wrong:
            return _plant(document, arguments | {name: wrong}, "constraint_violation", (name,))
    return None


BREAKS: dict[str, Any] = {
    "pattern": "Not Like This!",
    "format": "2024-02-30",
    "minLength": "ab",
    "exclusiveMinimum": -3,
    "multipleOf": 7,
    "minimum": -1000,
}


def plant_repeat(document: Document, arguments: Document, rng: random.Random) -> Planted:
    turned = dict(reversed(arguments.items()))
    text = write(document["name"], arguments) + "\n" + write(document["name"], turned)
    return Planted(text=text, tools=[_tool(document)], fault="duplicate_call", path="$[1]")


def plant_loop(document: Document, arguments: Document, rng: random.Random) -> Planted:
    text = write(document["name"], arguments) * rng.randint(17, 30)
    beside = frozenset({"duplicate_call"})
    return Planted(text=text, tools=[_tool(document)], fault="too_many_calls", beside=beside)


def plant_json(document: Document, arguments: Document, rng: random.Random) -> Planted:
    body = json.dumps({"name": document["name"], "arguments": arguments})
    broken = rng.choice(
        [
            body[:-1],
            body[:-1] + ', "arguments": {}}',
            body[:-2] + ("," if arguments else "") + '"zz": NaN}}',
            body[:-2] + ("," if arguments else "") + '"zz": "\\ud800"}}',
            body[:-2] + ("," if arguments else "") + '"zz": ' + "[" * 10_000 + "]" * 10_000 + "}}",
            body[:-2] + ("," if arguments else "") + '"zz": ' + "9" * 5000 + "}}",
            body + "}",
            "call it",
            "",
        ]
    )
    text = f"<tool_call>{broken}</tool_call>"
    return Planted(text=text, tools=[_tool(document)], fault="call_json", path="$[0]")


def plant_keys(document: Document, arguments: Document, rng: random.Random) -> Planted:
    name = document["name"]
    wrong: list[tuple[Any, str]] = [
        ({"name": name, "parameters": arguments}, "$[0]"),
        ({"arguments": arguments}, "$[0]"),
        ({"name": name, "arguments": json.dumps(arguments)}, "$[0]"),
        ({"name": [name], "arguments": arguments}, "$[0]"),
        ([{"name": name, "arguments": arguments}], "$[0]"),
        ({"name": name, "arguments": arguments, "id": 1}, "$"),
    ]
    body, path = rng.choice(wrong)
    text = f"<tool_call>{json.dumps(body)}</tool_call>"
    return Planted(text=text, tools=[_tool(document)], fault="call_keys", path=path)


def plant_prose(document: Document, arguments: Document, rng: random.Random) -> Planted:
    bare = json.dumps({"name": document["name"], "arguments": arguments})
    text = rng.choice(["I cannot do that.", "", bare, bare + "</tool_call>"])
    fault = "call_json" if bare in text else "no_tool_call"
    return Planted(text=text, tools=[_tool(document)], fault=fault)


def plant_cut(document: Document, arguments: Document, rng: random.Random) -> Planted:
    text = write(document["name"], arguments)
    text = text[: rng.randint(len("<tool_call>"), len(text) - len("</tool_call>"))]
    tools, beside = [_tool(document)], frozenset({"call_json"})
    return Planted(text=text, tools=tools, fault="truncated", finish_reason="length", beside=beside)


def plant_chatter(document: Document, arguments: Document, rng: random.Random) -> Planted:
    text = write(document["name"], arguments)
    text = rng.choice([f"Sure! {text}", f"{text}\nDone.", f"<think>hm</think>{text}"])
    return Planted(text=text, tools=[_tool(document)], fault="extra_text")


def plant_invention(document: Document, arguments: Document, rng: random.Random) -> Planted | None:
    names = _given(document, arguments, "string")
    names = [name for name in names if name in document["arguments"]["required"]]
    if not names:
        return None
    name = rng.choice(names)
    others = {key: value for key, value in arguments.items() if key != name}
    query = "Please " + json.dumps(others, ensure_ascii=False)
    wrong = arguments | {name: "Qqzx Vvkw"}
    beside = frozenset({"unused_value"})  # the query quotes names of arguments
    return _plant(document, wrong, "ungrounded_value", (name,), query=query, beside=beside)


def plant_omission(document: Document, arguments: Document, rng: random.Random) -> Planted:
    marked = rng.choice(("Qqzx Vvkw", "790,415", "q@vvkw.org"))
    query = f"For {marked}: {json.dumps(arguments, ensure_ascii=False)}"
    text, beside = write(document["name"], arguments), frozenset({"ungrounded_value"})
    tools = [_tool(document)]
    return Planted(text=text, tools=tools, fault="unused_value", query=query, beside=beside)


FAULTS: dict[str, Callable[[Document, Document, random.Random], Planted | None]] = {
    "unknown_tool": plant_unknown_tool,
    "unknown_argument": plant_unknown_argument,
    "missing_required": plant_missing,
    "wrong_type": plant_type,
    "enum_violation": plant_enum,
    "array_item_type": plant_item,
    "object_nested_schema": plant_nested,
    "constraint_violation": plant_limit,
    "duplicate_call": plant_repeat,
    "too_many_calls": plant_loop,
    "call_json": plant_json,
    "call_keys": plant_keys,
    "no_tool_call": plant_prose,
    "truncated": plant_cut,
    "extra_text": plant_chatter,
    "ungrounded_value": plant_invention,
    "unused_value": plant_omission,
}
"""Reason to what plants it."""
SCHEMA_FAULTS = {"unknown_argument", "missing_required", "wrong_type", "enum_violation"}
SCHEMA_FAULTS |= {"array_item_type", "object_nested_schema", "constraint_violation"}
"""Those that plain jsonschema can see."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=100_000, help="calls to make")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print_machine("jsonschema")
    documents = read_documents()
    rulebook = Rulebook.load(Workspace(shipped_root()))
    made, missed, plain = Counter[str](), Counter[str](), Counter[str]()
    examples: list[str] = []
    for planted in islice(make_calls(documents, options.seed), options.num):
        made[planted.fault] += 1
        if miss := find_miss(planted, rulebook):
            missed[planted.fault] += 1
            examples.append(miss)
        plain[_compare(planted)] += 1
    rows = [(name or "(clean)", made[name], made[name] - missed[name], missed[name])
            for name in ("", *FAULTS)]  # fmt: skip
    print_table(f"{options.num} calls from {len(documents)} documents, seed {options.seed}",
                ("planted", "calls", "as wanted", "missed"), rows)  # fmt: skip
    print_table("beside plain jsonschema", ("judgement", "calls"), plain.most_common())
    for example in examples[:20]:
        print(example)
    sys.exit(1 if missed or plain["differs"] else 0)


def _compare(planted: Planted) -> str:
    """How plain jsonschema's judgement of the arguments stands to what was planted."""
    fits = judge_plainly(planted)
    if fits is None:
        return "nothing to judge: no call, or of no known tool"
    if fits != (planted.fault in SCHEMA_FAULTS):
        return "agrees"
    whole = planted.fault in SCHEMA_FAULTS and ".0" in planted.text
    return "differs: 5.0 for an integer" if whole else "differs"


if __name__ == "__main__":
    main()

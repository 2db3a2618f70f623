"""Benchmarks of one's own: labelled requests become files in the workspace's eval/.

A label comes with the request (BFCL's question, functions and ground truth in one line), or from
the ledger: an accepted sample whose query id a person has listed after reading it. Every item must
be one that its own label answers rightly, so that the ceiling is 100. What a checkpoint in force
may have been trained on is refused: such a score would say nothing.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from factory.domain.canon import canonical_json, query_id, to_json, tool_id
from factory.domain.failures import ContentError, InputError
from factory.domain.jsontext import json_path, parse_strict
from factory.domain.records import Call, Candidate, HeldOut, Message, Tool
from factory.judge.calls import judge_call
from factory.score.calls.bfcl import OMITTABLE, check_ast, gold_calls
from factory.score.calls.kind import Benchmark
from factory.score.calls.questions import MAX_TOKENS, check_item
from factory.score.calls.wording import read_question, simplify
from factory.score.definition import Split
from factory.score.items import Item
from factory.tools.dialects import read_dialect, to_function
from factory.tools.rowfiles import BadLine, read_rows
from factory.tools.sources import StrictLoader, read_values
from factory.workspace.folder import Workspace

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
QUERY_ID = re.compile(r"q_[0-9a-f]+")
NO_CALL = "irrelevance"
"""Category of the items where no call is right."""
CATEGORIES = ("simple", "multiple", "parallel", "parallel_multiple", NO_CALL)

Identity: TypeAlias = tuple[tuple[tuple[str, str], ...], frozenset[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A request with its expected calls. Example: Labelled(query="Light!", functions=(…), …)."""

    query: str
    functions: tuple[dict[str, Any], ...]
    """Functions on offer, in BFCL's dialect."""
    ground_truth: tuple[dict[str, dict[str, list[Any]]], ...]
    """Expected calls with allowed values."""
    where: str
    """File and line, or query id."""
    messages: tuple[Message, ...] = ()
    """The turns of the question; empty is one user message, the query."""

    @property
    def identity(self) -> Identity:
        """What is asked: the same request with other functions is another item."""
        turns = tuple((turn.role, query_id(turn.content)) for turn in self.as_item("").turn)
        return turns, frozenset(map(canonical_json, self.functions))

    def as_item(self, key: str) -> Item:
        """As a benchmark asks it."""
        return Item(
            id=key,
            category=self.category,
            query=self.query,
            messages=self.messages,
            functions=self.functions,
            ground_truth=self.ground_truth,
            judge="python" if self.ground_truth else "no_call",
        )

    @property
    def category(self) -> str:
        """By how many functions are offered and how many calls expected, as BFCL names them."""
        if not self.ground_truth:
            return NO_CALL
        parallel, multiple = len(self.ground_truth) > 1, len(self.functions) > 1
        return CATEGORIES[2 * parallel + multiple]


def read_ids(file: Path) -> list[str]:
    """The query ids of a file, one a line; empty where it holds something else."""
    ids: list[str] = []
    for row in read_rows(file, []):
        if row.form != "lines" or not QUERY_ID.fullmatch(row.value.strip()):
            return []
        ids.append(row.value.strip())
    return ids


def read_labelled(file: Path) -> tuple[list[Labelled], list[BadLine]]:
    """Labelled requests of a file of any form, and the rows that cannot be used.

    A row has `question` (BFCL's [[{role, content}]], messages or a text) or `query`, `function`
    (one or a list) and `ground_truth`, which is [] where no call is right. Raises InputError where
    the file cannot be read.
    """
    good: list[Labelled] = []
    bad: list[BadLine] = []
    labels: dict[Identity, Labelled] = {}
    loader = StrictLoader()
    for where, row in read_values(file, bad, loader.decoder):
        try:
            loader.check(row)
            parse_strict(to_json(row))
            found = _read_item(row, where)
            first = labels.setdefault(found.identity, found)
            if first.ground_truth != found.ground_truth:
                raise ValueError(f"{first.where} has another label for the same question")
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            bad.append(BadLine(where=where, cause=_cause(error)))
            continue
        good.append(found)
    return good, bad


def _read_item(row: Mapping[str, Any], where: str) -> Labelled:
    """Raises ValueError, or what a row of another shape gives."""
    messages = read_question(row.get("question", row.get("query")))
    ground_truth = _listed(row, "ground_truth")
    functions = _listed(row, "function")
    if ground_truth and not functions:
        raise ValueError("'function' must be an object or a list of them")
    found = Labelled(
        query="\n\n".join(message.content for message in messages),
        messages=messages,
        functions=tuple(_to_bfcl(each) for each in functions),
        ground_truth=tuple(ground_truth),
        where=where,
    )
    _check_names(found)
    try:
        check_item(found.as_item("it"), where)
    except ContentError as error:
        raise ValueError(error.what) from error
    _check(found)
    _check_schema(found.ground_truth, [read_dialect(dict(each))[0] for each in functions])
    return found


def from_samples(
    ids: Sequence[str], samples: Iterable[Candidate], trained: frozenset[str]
) -> tuple[list[Labelled], list[BadLine]]:
    """The accepted samples of these query ids as labelled requests.

    `trained` are query ids that the checkpoint in force may have seen in training.
    """
    known = {sample.query.id: sample for sample in samples}
    good: list[Labelled] = []
    bad: list[BadLine] = []
    for each in dict.fromkeys(ids):
        cause = ""
        if each not in known:
            cause = "no accepted sample has this query id"
        elif each in trained:
            cause = "the model may have been trained on it: take a sample of a round that was not"
        else:
            sample = known[each]
            found = Labelled(
                query=sample.query.text,
                functions=tuple(_to_bfcl(tool.document) for tool in sample.tools),
                ground_truth=tuple(_to_gold(call, sample) for call in sample.calls),
                where=each,
            )
            try:
                _check(found)
                good.append(found)
            except ValueError as error:
                cause = str(error)
        if cause:
            bad.append(BadLine(where=each, cause=cause))
    return good, bad


def write_benchmark(
    workspace: Workspace, name: str, title: str, split: Split, items: Sequence[Labelled]
) -> Benchmark:
    """Write eval/<name>.toml with its questions, and load it.

    Raises InputError for a bad or taken name and for no items; nothing is left behind then.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name", remedy="use a-z, 0-9 and -")
    marker, folder = workspace.root / "eval" / f"{name}.toml", workspace.root / "eval" / name
    if not is_free(workspace, name):
        raise InputError(f"there is a benchmark {name} already", where=str(marker))
    if not items:
        raise InputError("no labelled request can be used", remedy="see the bad lines above")
    unique = list({item.identity: item for item in reversed(items)}.values())[::-1]
    (folder / "possible_answer").mkdir(parents=True)
    try:
        present = [c for c in CATEGORIES if any(item.category == c for item in unique)]
        for category in present:
            _write_category(folder, category, [i for i in unique if i.category == category])
        marker.write_text(_definition(name, title, split, present, unique), encoding="utf-8")
        return Benchmark.load(workspace, name)
    except BaseException:
        shutil.rmtree(folder)
        marker.unlink(missing_ok=True)
        raise


def held_out_ids(benchmarks: Iterable[HeldOut]) -> frozenset[str]:
    """Query ids of all questions: what no training may use, whatever way it came in."""
    return frozenset(query_id(item.query) for each in benchmarks for item in each.items)


def is_free(workspace: Workspace, name: str) -> bool:
    """Whether no benchmark, and nothing that lies in its place, has this name."""
    place = workspace.root / "eval" / name
    taken = place.exists() or (workspace.root / "eval" / f"{name}.toml").exists()
    return not taken and all(
        path != f"eval/{name}.toml" for path, _ in workspace.walk("eval", ".toml")
    )


def _write_category(folder: Path, category: str, items: Sequence[Labelled]) -> None:
    questions, answers = [], []
    for number, item in enumerate(items):
        key = f"{category}_{number}"
        turn = [message.to_json() for message in item.as_item(key).turn]
        questions.append({"id": key, "question": [turn], "function": list(item.functions)})
        answers.append({"id": key, "ground_truth": list(item.ground_truth)})
    for path, rows in (
        (folder / f"{category}.json", questions),
        (folder / "possible_answer" / f"{category}.json", answers),
    ):
        if path.parent != folder and category == NO_CALL:
            continue
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        path.write_text("".join(lines), encoding="utf-8")


def _definition(
    name: str, title: str, split: Split, categories: Sequence[str], items: Sequence[Labelled]
) -> str:
    return (
        f"# Score it: factory score {name}\n"
        "# A round rejects requests that overlap its questions, and trains on none of them.\n"
        "held_out = true\n"
        f"title = {json.dumps(title, ensure_ascii=False)}\n"
        f'split = "{split}"\n'
        f'questions = "{name}"\n'
        f"categories = {json.dumps(list(categories))}\n"
        f"max_tokens = {max(MAX_TOKENS, *map(_most_tokens, items))}\n"
        + (f'\n[judge]\n{NO_CALL} = "no_call"\n' if NO_CALL in categories else "")
    )


def _most_tokens(item: Labelled) -> int:
    """Tokens that its label may take in Hermes tags: no tokenizer needs more than one a byte."""
    calls = gold_calls(item.ground_truth)
    return sum(
        len(f"<tool_call>\n{to_json(asdict(call))}\n</tool_call>\n".encode()) for call in calls
    )


def _listed(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(each, dict) for each in listed):
        raise ValueError(f"{key!r} must be an object or a list of them")
    return listed


def _to_bfcl(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function of any dialect as BFCL writes it: an argument has one type word."""
    (document,) = read_dialect(dict(function))
    written = to_function(document)
    parameters = written["parameters"]
    properties = parameters.get("properties") or {}
    simple = {name: simplify(schema) for name, schema in properties.items()}
    return {**written, "parameters": {**parameters, "properties": simple}}


def _check_schema(ground_truth: Sequence[Any], documents: Sequence[Any]) -> None:
    """Each allowed value fits the function's own schema. Raises ValueError with what does not."""
    tools = {str(each["name"]): Tool(id=tool_id(each), document=each) for each in documents}
    for gold in ground_truth:
        ((name, allowed),) = gold.items()
        ways = [gold] + [
            {name: {**allowed, argument: [value]}}
            for argument, values in allowed.items()
            for value in values
            if value != OMITTABLE
        ]
        for call in gold_calls(ways):
            finding = next(judge_call(call, 0, tools), None)
            if finding is not None:
                place = json_path(finding.path[1:])
                raise ValueError(f"its label breaks its schema at {place}: {finding.message}")


def _to_gold(call: Call, sample: Candidate) -> dict[str, dict[str, list[Any]]]:
    """The confirmed call as ground truth: its values, or the default left out."""
    tool = next(tool for tool in sample.tools if tool.name == call.name)
    properties: Mapping[str, Any] = tool.arguments.get("properties") or {}
    allowed = {name: [_gold_value(value)] for name, value in call.arguments.items()}
    for name, schema in properties.items():
        if "default" not in schema or name in (tool.arguments.get("required") or ()):
            continue
        if name not in allowed:
            allowed[name] = [_gold_value(schema["default"]), OMITTABLE]
        elif call.arguments[name] == schema["default"]:
            allowed[name].append(OMITTABLE)
    return {call.name: allowed}


def _gold_value(value: Any) -> Any:
    """In gold each key of an object has a list of allowed values."""
    if isinstance(value, dict):
        return {key: [_gold_value(each)] for key, each in value.items()}
    if isinstance(value, list):
        return [_gold_value(each) for each in value]
    return value


def _check(item: Labelled) -> None:
    """The label answers its own request. Raises ValueError with what is wrong."""
    _check_names(item)
    verdict = check_ast(gold_calls(item.ground_truth), item.functions, item.ground_truth)
    if not verdict.correct:
        raise ValueError(f"its own label is not right: {verdict.message}")


def _check_names(item: Labelled) -> None:
    names = [function["name"] for function in item.functions]
    for gold in item.ground_truth:
        if len(gold) != 1 or next(iter(gold)) not in names:
            raise ValueError(f"an expected call is none of {', '.join(map(str, names))}")


def _cause(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"a function or message has no {error}"
    if isinstance(error, ValueError):
        return str(error)
    return "not a labelled request: it needs question, function and ground_truth"

"""ToolBench's data, as its two kinds of benchmark load them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from factory.domain.bounded import parse_json
from factory.domain.canon import digest, to_json, tool_id
from factory.domain.failures import ContentError, InputError
from factory.domain.records import Tool
from factory.score.base import find_data, read_json, read_text
from factory.score.definition import Definition, first_of_each
from factory.score.items import Item
from factory.tools.dialects import read_dialect
from factory.tools.rowfiles import BadLine
from factory.workspace.folder import Workspace


class ToolBenchDefinition(Definition):
    """What definitions on ToolBench's data have in common."""

    data: str = ""
    """ToolBench's folder, or StableToolBench's."""
    splits: tuple[str, ...] = ()
    """The wanted ones; none is all that the folder has."""
    limit: int = Field(0, ge=0)
    """Requests of each split; 0 is all."""

    def load_data(self, workspace: Workspace, name: str) -> ToolBench:
        """The requests that are asked, and the documents."""
        bench = self.read(workspace, name)
        queries = first_of_each(bench.queries, self.limit, lambda query: query.split)
        return replace(bench, queries=tuple(queries))

    def read(self, workspace: Workspace, name: str) -> ToolBench:
        """All requests of the wanted splits, and the documents."""
        return load_toolbench(find_data(workspace, self.data, name), self.splits)


def make_items(groups: Sequence[str], bench: ToolBench) -> tuple[Item, ...]:
    """Every request once in each group."""
    return tuple(
        Item(
            id=f"{group}/{query.id}",
            category=f"{group} {query.split}",
            query=query.text,
            functions=(),
            ground_truth=tuple(sorted(query.relevant)),
        )
        for group in groups
        for query in bench.queries
    )


def toolbench_sha(bench: ToolBench) -> str:
    """Hash of requests, documents and domains."""
    queries = [[q.id, q.text, sorted(q.relevant), q.offered] for q in bench.queries]
    documents = [
        [key, [each.document for each in several]] for key, several in bench.documents.items()
    ]
    domains = {group: sorted(keys) for group, keys in bench.domains.items()}
    return digest(to_json([queries, documents, domains]))


SPLITS: Mapping[str, str] = {
    "I1-Inst": "G1_instruction",
    "I2-Inst": "G2_instruction",
    "I3-Inst": "G3_instruction",
    "I1-Tool": "G1_tool",
    "I1-Cat": "G1_category",
    "I2-Cat": "G2_category",
}
"""The six test splits by the papers' names, with the files' names."""
TRAINING: Mapping[str, int] = {f"I{number}-Train": number for number in (1, 2, 3)}
"""The training requests by group, with the number in the files' names."""
GROUPS = ("I1", "I2", "I3")
"""Single tool; several tools of a category; several tools of a collection."""
POOLS: Mapping[str, tuple[str, ...]] = {
    group: tuple(split for split in SPLITS if split.startswith(group)) for group in GROUPS
}
"""Splits that ToolGen's tables give as one set of requests."""


class ApiKey(NamedTuple):
    """What identifies a tool of ToolBench."""

    tool: str
    """RapidAPI's tool."""
    api: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiDocument:
    """One description of an API. Example: ApiDocument(key=ApiKey("Vimeo", "SearchVideos"), …)."""

    key: ApiKey
    """Whose description it is; an API may have several."""
    document: dict[str, Any]
    """category_name, tool_name, api_name, api_description, required_parameters, …"""

    @property
    def category(self) -> str:
        return str(self.document.get("category_name", ""))

    @property
    def text(self) -> str:
        """What a retriever reads (§5.1)."""
        of = self.document
        described = str(of.get("api_description", of.get("description", "")))
        if "arguments" in of:  # of one's own tools, not of ToolBench
            return ", ".join((*filter(None, self.key), described, json.dumps(of["arguments"])))
        schema = of.get("template_response", of.get("schema", {}))
        return ", ".join(
            (
                self.category,
                *self.key,
                described,
                f"required_params: {json.dumps(of.get('required_parameters', []))}",
                f"optional_params: {json.dumps(of.get('optional_parameters', []))}",
                f"return_schema: {json.dumps(schema)}",
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolQuery:
    """A labelled request. Example: ToolQuery(id="I1-Inst/588", split="I1-Inst", text="…", …)."""

    id: str
    """Split and number, unique in the benchmark."""
    split: str
    """One of SPLITS or TRAINING; of ToolSense its complexity; or a name of one's own."""
    text: str
    relevant: frozenset[ApiKey]
    """The APIs that answer it, at least one."""
    offered: tuple[ApiKey, ...] = ()
    """The APIs it was written for; empty where the layout does not tell."""

    @property
    def group(self) -> str:
        """I1, I2 or I3."""
        return self.split[:2]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolBench:
    """Requests of the splits that a folder has, and the documents to find."""

    queries: tuple[ToolQuery, ...]
    """Split by split, in the files' order."""
    documents: Mapping[ApiKey, tuple[ApiDocument, ...]]
    """Descriptions of every API, in the files' order."""
    domains: Mapping[str, frozenset[ApiKey]] = field(default_factory=dict)
    """The APIs of each group: what in-domain retrieval searches (§2.8)."""
    notes: tuple[str, ...] = ()
    """What was left out, or may make figures differ from published ones."""
    overall: Literal["mean", "all"] = "mean"
    """Its score: the mean of the splits, or all requests alike."""
    bad: tuple[BadLine, ...] = ()
    """Labels that cannot be used: of training data, where one is left out and not the whole."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have requests, in their order."""
        return tuple(dict.fromkeys(query.split for query in self.queries))

    @property
    def pools(self) -> Mapping[str, tuple[str, ...]]:
        """The POOLS of which no split is missing."""
        return {name: of for name, of in POOLS.items() if set(of) <= set(self.splits)}

    def search_space(self, group: str | None) -> list[ApiDocument]:
        """Documents of one group (in-domain), or of all (multi-domain) for None."""
        keys = self.documents if group is None else self.domains[group]
        return [
            document
            for key, several in self.documents.items()
            if key in keys
            for document in several
        ]


@dataclass(slots=True)
class _Pile:
    """What has been read of a folder so far."""

    documents: dict[ApiKey, dict[str, ApiDocument]] = field(default_factory=dict)
    domains: dict[str, set[ApiKey]] = field(default_factory=dict)
    queries: dict[str, ToolQuery] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    """File and line, or row, of each request to learn."""

    def add_document(self, value: object, where: str, group: str = "") -> ApiKey:
        """Keep a description (equal texts once), and that the group can find it."""
        document = read_document(value, where)
        self.documents.setdefault(document.key, {}).setdefault(document.text, document)
        if group:
            self.domains.setdefault(group, set()).add(document.key)
        return document.key

    @property
    def described(self) -> dict[ApiKey, tuple[ApiDocument, ...]]:
        """The documents of every API, in the files' order."""
        return {key: tuple(several.values()) for key, several in self.documents.items()}


def load_documents(place: Path) -> dict[ApiKey, tuple[ApiDocument, ...]]:
    """The API documents of a corpus.jsonl, or of ToolBench's or StableToolBench's folder.

    Raises InputError where there are none, ContentError (with file and line) for a bad one.
    """
    pile = _Pile()
    if place.is_dir():
        _read_corpus(place, {}, pile)
        _read_tool_files(place, pile)
    else:
        _read_documents(place, pile)
    if not pile.documents:
        raise InputError(
            "no API documents of ToolBench here",
            where=str(place),
            remedy="give a corpus.jsonl, or a folder with corpus.jsonl, retrieval/ or toolenv/",
        )
    return pile.described


def load_toolbench(
    folder: Path, splits: Sequence[str] = (), *, split: Literal["test", "train"] = "test"
) -> ToolBench:
    """The benchmark in `folder`; `splits` names the wanted ones, all by default.

    With `split="train"` the requests to learn: train.query.txt with qrels.train.tsv, or an
    instruction file without the ids of its test requests.

    Raises InputError where the folder has no labelled requests or no documents, ContentError
    (with file and line) where a file cannot be read.
    """
    for name in splits:
        if name not in SPLITS:
            raise InputError(f"no split {name!r}", remedy=f"the splits are {', '.join(SPLITS)}")
    trains = split == "train"
    wanted = {} if trains else {name: SPLITS[name] for name in splits or SPLITS}
    pile = _read_folder(folder, wanted, trains=trains)
    if not pile.queries or not pile.documents:
        what = "labelled requests" if not pile.queries else "API documents"
        more = f": {pile.bad[0].cause} ({pile.bad[0].where})" if pile.bad else ""
        raise InputError(
            f"no {what} of ToolBench{' to learn' if trains else ''} here{more}",
            where=str(folder),
            remedy="give ToolBench's data folder (retrieval/, instruction/, toolenv/)"
            + (
                " with train.query.txt and qrels.train.tsv, or with lists of test ids"
                if trains
                else " or StableToolBench's (test_instruction/ beside corpus.jsonl)"
            ),
        )
    return _finish(pile)


def _read_folder(folder: Path, wanted: Mapping[str, str], *, trains: bool) -> _Pile:
    pile = _Pile()
    has_corpus = _read_corpus(folder, wanted, pile, trains=trains)
    if trains:
        _read_training_files(folder, pile, has_corpus=has_corpus)
    else:
        _read_query_files(folder, wanted, pile, has_corpus=has_corpus)
    _read_tool_files(folder, pile)
    if trains:
        _refuse_unknown(pile)
    return pile


def load_training_split(qrels: Path) -> ToolBench:
    """The requests to learn of one …qrels.train.tsv, wherever it lies.

    Beside it are …corpus.tsv and …train.query.txt. Raises ContentError where one cannot be read.
    """
    stem = qrels.name.removesuffix("qrels.train.tsv")
    pile = _Pile()
    keys = _read_table_of_documents(qrels.with_name(f"{stem}corpus.tsv"), pile)
    queries = qrels.with_name(f"{stem}train.query.txt")
    _read_qrels(queries, qrels, next(iter(TRAINING)), keys, pile, is_training=True)
    return replace(_finish(pile), notes=())


def _read_table_of_documents(file: Path, pile: _Pile, group: str = "") -> dict[str, ApiKey]:
    """The APIs of a corpus.tsv by the ids of their documents."""
    keys: dict[str, ApiKey] = {}
    for where, row in _table(file, header=True):
        if len(row) != 2:
            raise ContentError("a corpus line is: id, document", where=where)
        keys[row[0]] = pile.add_document(parse_json(row[1], where), where, group)
    return keys


def has_training(folder: Path) -> bool:
    """Whether load_toolbench finds files with requests to learn."""
    return any(
        any((base / "train.query.txt").is_file() for base in _retrieval_folders(folder, number))
        or (_instruction_files(folder, f"G{number}") and _test_ids(folder, number))
        for number in TRAINING.values()
    )


def is_toolbench(folder: Path) -> bool:
    """Whether a folder is laid out as ToolBench's or StableToolBench's."""
    names = ("retrieval", "instruction", "toolenv", "test_instruction", "solvable_queries", "G1")
    return bool(_existing(folder, (*names, "G2", "G3", "corpus.jsonl", "data/corpus.jsonl")))


def read_document(value: object, where: str) -> ApiDocument:
    """One API document. Raises ContentError without a tool and an API name."""
    if not isinstance(value, dict):
        raise ContentError("an API document must be an object", where=where)
    names = value.get("tool_name"), value.get("api_name", value.get("name"))
    if not all(isinstance(name, str) and name for name in names):
        raise ContentError("an API document needs tool_name and api_name", where=where)
    return ApiDocument(key=ApiKey(str(names[0]), str(names[1])), document=value)


def _finish(pile: _Pile) -> ToolBench:
    order = [*SPLITS, *TRAINING]
    queries = sorted(pile.queries.values(), key=lambda query: order.index(query.split))
    lost = {key for query in queries for key in query.relevant if key not in pile.documents}
    if lost:
        pile.notes.append(f"{len(lost)} relevant APIs have no document and cannot be found")
    for group in GROUPS:
        of_group = [query for query in queries if query.group == group]
        if of_group and group not in pile.domains:
            pile.domains[group] = {
                key for query in of_group for key in (*query.offered, *sorted(query.relevant))
            }
            pile.notes.append(
                f"no corpus of {group} alone: in-domain searches the APIs of its {len(of_group)} "
                "requests"
            )
    return ToolBench(
        queries=tuple(queries),
        documents=pile.described,
        domains={group: frozenset(keys) for group, keys in pile.domains.items()},
        notes=tuple(pile.notes),
        bad=tuple(pile.bad),
    )


def _refuse_unknown(pile: _Pile) -> None:
    """Take out the requests to learn that name an API without document, as bad lines."""
    for query in list(pile.queries.values()):
        lost = sorted(key for key in query.relevant if key not in pile.documents)
        if lost:
            tool, api = lost[0]
            cause = f"no document describes {api!r} of {tool!r}"
            pile.bad.append(BadLine(where=pile.places[query.id], cause=cause))
            del pile.queries[query.id]


def _read_corpus(
    folder: Path, wanted: Mapping[str, str], pile: _Pile, *, trains: bool = False
) -> bool:
    """Documents that are written down for a retriever, with the requests; whether there are any."""
    for file in _existing(folder, ("corpus.jsonl", "data/corpus.jsonl")):
        _read_documents(file, pile)
    return _read_retrieval(folder, wanted, pile, trains=trains) or bool(pile.documents)


def _read_documents(file: Path, pile: _Pile) -> None:
    for where, value in _json_lines(file):
        pile.add_document(value, where)


# The retriever's files --------------------------------------------------------------------


def _retrieval_folders(folder: Path, number: int) -> list[Path]:
    bases = _existing(folder, (f"retrieval/G{number}", f"G{number}"))
    return [base for base in bases if (base / "corpus.tsv").is_file()]


def _read_retrieval(folder: Path, wanted: Mapping[str, str], pile: _Pile, *, trains: bool) -> bool:
    """Corpus, queries and qrels of each group; whether there were any."""
    found = False
    for training, number in TRAINING.items():
        for base in _retrieval_folders(folder, number):
            found = True
            keys = _read_table_of_documents(base / "corpus.tsv", pile, f"I{number}")
            if trains and (base / "train.query.txt").is_file():
                files = base / "train.query.txt", base / "qrels.train.tsv"
                _read_qrels(*files, training, keys, pile, is_training=True)
            for split in wanted:
                if split.startswith(f"I{number}") and (tested := _test_files(base, split, pile)):
                    _read_qrels(*tested, split, keys, pile)
    return found


def _test_files(base: Path, split: str, pile: _Pile) -> tuple[Path, Path] | None:
    """The queries and qrels of one split; None where the group has none of it."""
    name = SPLITS[split]
    queries = base / f"test_{name}.query.txt"
    if not queries.is_file():
        # Without files of its own the instruction split is the group's whole test set.
        if not name.endswith("_instruction") or not (base / "test.query.txt").is_file():
            return None
        queries = base / "test.query.txt"
        pile.notes.append(f"{split} is the whole of {queries}: there is no test_{name}.query.txt")
    qrels = base / f"qrels.test_{name}.tsv"
    return queries, qrels if qrels.is_file() else base / "qrels.test.tsv"


def _read_qrels(
    queries: Path,
    qrels: Path,
    split: str,
    keys: Mapping[str, ApiKey],
    pile: _Pile,
    *,
    is_training: bool = False,
) -> None:
    """Requests of one split with their relevant APIs; of training a wrong label is a bad line."""
    relevant: dict[str, set[ApiKey]] = {}
    for where, row in _table(qrels):
        if len(row) != 4 or row[2] not in keys:
            cause = "a qrels line is: query id, 0, id of a document, 1"
            if not is_training:
                raise ContentError(cause, where=where)
            if len(row) == 4:
                cause = f"the corpus has no document {row[2]}"
            pile.bad.append(BadLine(where=where, cause=cause))
        elif row[3].strip() != "0":
            relevant.setdefault(row[0], set()).add(keys[row[2]])
    asked: set[str] = set()
    for where, row in _table(queries):
        asked.add(row[0])
        known = relevant.get(row[0], set())
        if is_training and not known:
            cause = f"no usable line of {qrels.name} has request {row[0]}"
            pile.bad.append(BadLine(where=where, cause=cause))
            continue
        pile.places.setdefault(f"{split}/{row[0]}", where)
        _add_query(pile, split, row[0], row[1] if len(row) > 1 else "", known)
    if is_training:
        lost = (f"{queries.name} has no request {each}" for each in relevant if each not in asked)
        pile.bad += (BadLine(where=str(qrels), cause=cause) for cause in lost)


def _table(file: Path, *, header: bool = False) -> Iterator[tuple[str, list[str]]]:
    """("file:line", cells) of a tab-separated file, quoted as pandas writes it."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream, delimiter="\t")
            for number, row in enumerate(reader):
                if row and not (header and number == 0):
                    yield f"{file}:{reader.line_num}", row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ContentError(f"cannot be read: {error}", where=str(file)) from error


# Query files and tool files ---------------------------------------------------------------


def _read_query_files(
    folder: Path, wanted: Mapping[str, str], pile: _Pile, *, has_corpus: bool
) -> None:
    """JSON lists of requests with their APIs, one a split or one a group with lists of ids."""
    for split, name in wanted.items():
        if any(query.split == split for query in pile.queries.values()):
            continue
        own = _existing(folder, _own_files(name))
        for file in own[:1] or _instruction_files(folder, name[:2])[:1]:
            ids = None if own else _read_ids(folder, name)
            if ids is None and not own:
                if not name.endswith("_instruction"):
                    continue
                pile.notes.append(f"{split} is the whole of {file}: there are no lists of test ids")
            _read_query_file(file, split, ids, pile, has_corpus=has_corpus)


def _instruction_files(folder: Path, group: str) -> list[Path]:
    return _existing(folder, (f"instruction/{group}_query.json", f"{group}_query.json"))


def _test_ids(folder: Path, number: int) -> frozenset[str]:
    """Ids of a group's test requests; none where nothing tells them."""
    ids: set[str] = set()
    for name in SPLITS.values():
        if name.startswith(f"G{number}"):
            ids |= _read_ids(folder, name) or frozenset()
            for file in _existing(folder, _own_files(name)):
                ids |= {str(row.get("query_id")) for row in read_json(file)}
    return frozenset(ids)


def _read_training_files(folder: Path, pile: _Pile, *, has_corpus: bool) -> None:
    """Requests of the instruction files that no list of test ids names."""
    for split, number in TRAINING.items():
        if any(query.split == split for query in pile.queries.values()):
            continue
        for file in _instruction_files(folder, f"G{number}")[:1]:
            if tested := _test_ids(folder, number):
                _read_query_file(file, split, None, pile, has_corpus=has_corpus, but=tested)
            else:
                cause = "it is not learnt: no list says which requests are a test's"
                pile.bad.append(BadLine(where=str(file), cause=cause))


def _own_files(name: str) -> tuple[str, ...]:
    """Files of a test split alone."""
    return f"solvable_queries/test_instruction/{name}.json", f"test_instruction/{name}.json"


def _read_query_file(
    file: Path,
    split: str,
    ids: frozenset[str] | None,
    pile: _Pile,
    *,
    has_corpus: bool,
    but: frozenset[str] = frozenset(),
) -> None:
    rows = read_json(file)
    if not isinstance(rows, list):
        raise ContentError("must be a JSON list of requests", where=str(file))
    for number, row in enumerate(rows):
        where = f"{file}#{number}"
        if not isinstance(row, dict) or not isinstance(row.get("query"), str):
            raise ContentError("a request needs a text under 'query'", where=where)
        offered = tuple(read_document(each, where).key for each in row.get("api_list") or ())
        for document in row.get("api_list") or ():
            # The list names its APIs shortly where a corpus describes them.
            if not has_corpus:
                pile.add_document(document, where)
        query_id = str(row.get("query_id", number))
        if (ids is None or query_id in ids) and query_id not in but:
            pile.places.setdefault(f"{split}/{query_id}", where)
            relevant = {_pair(pair, where) for pair in row.get("relevant APIs") or ()}
            _add_query(pile, split, query_id, row["query"], relevant, offered)


def _pair(value: object, where: str) -> ApiKey:
    if not isinstance(value, list) or len(value) != 2:
        raise ContentError("a relevant API is [tool name, API name]", where=where)
    return ApiKey(str(value[0]), str(value[1]))


def _read_ids(folder: Path, name: str) -> frozenset[str] | None:
    """Ids of a split's requests, None where no list says."""
    folders = ("test_query_ids", "solvable_queries/test_query_ids")
    names = (f"{name}.json", f"{name}_test_query_ids.json", f"{name}_test_ids.json")
    paths = [f"{base}/{file}" for base in folders for file in names]
    for file in _existing(folder, paths):
        return frozenset(map(str, read_json(file)))
    return None


def _read_tool_files(folder: Path, pile: _Pile) -> None:
    """API documents of the tool files, for APIs that nothing else describes."""
    for base in _existing(folder, ("toolenv/tools",)):
        for file in sorted(base.glob("*/*.json")):
            tool = read_json(file)
            if not isinstance(tool, dict):
                raise ContentError("a tool file must be an object", where=str(file))
            for api in tool.get("api_list") or ():
                if not isinstance(api, dict):
                    raise ContentError("an API must be an object", where=str(file))
                document = {
                    "category_name": file.parent.name,
                    "tool_name": tool.get("tool_name"),
                    "tool_description": tool.get("tool_description") or "",
                    "api_name": api.get("name"),
                    "api_description": api.get("description", ""),
                    **{k: v for k, v in api.items() if k not in ("name", "description")},
                }
                key = read_document(document, str(file)).key
                if key not in pile.documents:
                    pile.add_document(document, str(file))


def _add_query(
    pile: _Pile,
    split: str,
    number: str,
    text: str,
    relevant: Iterable[ApiKey],
    offered: tuple[ApiKey, ...] = (),
) -> None:
    query_id, keys = f"{split}/{number}", frozenset(relevant)
    if query_id in pile.queries:
        return
    if not keys:
        cause = "has no relevant API and is left out"
        if split in TRAINING:
            pile.bad.append(BadLine(where=pile.places[query_id], cause=cause))
        else:
            pile.notes.append(f"{query_id} {cause}")
        return
    pile.queries[query_id] = ToolQuery(
        id=query_id, split=split, text=text, relevant=keys, offered=offered
    )


def _existing(folder: Path, paths: Iterable[str]) -> list[Path]:
    return [folder / path for path in paths if (folder / path).exists()]


def _json_lines(file: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            yield f"{file}:{number}", parse_json(line, f"{file}:{number}")


def to_tool(document: ApiDocument) -> Tool | None:
    """The tool that `factory add-tools` makes of a document; None where it makes none.

    Equal documents of one API have equal ids.
    """
    try:
        (made,) = read_dialect(document.document)
    except ValueError:
        return None
    return Tool(id=tool_id(made), document=made)


def keys_of_tools(documents: Iterable[ApiDocument]) -> dict[str, ApiKey]:
    """The API of each tool id that the documents make."""
    tools = ((to_tool(document), document.key) for document in documents)
    return {tool.id: key for tool, key in tools if tool is not None}


def environment_name(key: ApiKey) -> str:
    """The name under which ToolBench's environment calls an API (§3.1); not an identity."""
    return f"{standard_name(key.api)}_for_{_standardise(key.tool)}"[-64:]


def standard_name(text: str) -> str:
    """The name under which ToolBench's environment has an API of a tool, or a parameter."""
    plain = _standardise(text)
    return f"is_{plain}" if plain in _RESERVED else plain


_RESERVED = ("from", "class", "return", "false", "true", "id", "and")


def _standardise(text: str) -> str:
    plain = re.sub(r"[^0-9a-zA-Z]", "_", text).lower()
    plain = re.sub(r"_+", "_", plain).strip("_")
    return f"get_{plain}" if plain[:1].isdigit() else plain

"""What is wrong with calls, against the candidate tools' own schemas.

Findings are named by rule id (`rules/call/`); factory.check turns them into verdicts.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence, Set
from itertools import islice

from jsonschema import Draft202012Validator, ValidationError

from factory.domain.canon import canonical_json
from factory.domain.jsontext import Parts, show, walk
from factory.domain.records import Call, Tool
from factory.judge.findings import MAX_VERDICTS, Finding, explain, suggest
from factory.judge.keys import make_key
from factory.judge.parsed import ParsedCalls
from factory.tools.schema import TooMuchWork, bounded_work, is_named, read_tool

_WORD = re.compile(r"\w+")
_PLAIN_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_SIGNED_NUMBER = re.compile(r"(?<![A-Za-z\d.])-?\d[\d,]*(?:\.\d+)?")
_MEASURE = re.compile(r"\d[\d,]*(?:\.\d+)?(?=\D*$)")
"""A number, alone or with a unit."""
_MOST_DIGITS = 4000
"""Of a number that is read exactly."""
_MOMENT = re.compile(r"\d\d?:\d\d|\d{4}-\d\d|\d\d?[/.]\d\d?[/.]\d{2}")
_MONTHS_AND_DAYS = frozenset(
    "jan feb mar apr may jun jul aug sep oct nov dec mon tue wed thu fri sat sun".split()
)
"""How their English names begin."""
_PARTS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_")
"""Between the words of an identifier."""
_KINDS = frozenset("am api apis id ids ip pm url urls".split())
"""What stands beside a value in capitals and is none."""
_SHORTEST_STEM = 4
_APART = re.compile(r"\s+|(?<=[^\W\d])/(?=[^\W\d])")
"""Between the words of a text, "City/Town" too."""
_OWNED = re.compile(r"(?<=\w)['’]s$")
_QUOTED = re.compile(r'"([^"\n]{1,200})"')
_I = re.compile(r"I(['’]\w+)?")
_AROUND = ".,;:!?()[]{}<>\"'“”‘’…$€£%+-"
"""Signs around a word that are no part of what it says."""
_ENDS = _AROUND.replace("%", "")
_CLOSING = "\"'”’)"
_BEFORE_SENTENCES = (".", "!", "?", ":", ";")


def judge_reading(parsed: ParsedCalls) -> Iterator[Finding]:
    if parsed.extra_keys:
        message = f"keys besides name and arguments: {', '.join(parsed.extra_keys[:4])}"
        yield Finding("call/call_keys", (), message)
    for index in parsed.foreign[:MAX_VERDICTS]:
        message = f"not an object of a name and an object of arguments in {show(parsed.text)}"
        yield Finding("call/call_keys", (index,), message)
    if parsed.repaired:
        message = f"quotes or trailing commas were mended in {show(parsed.text)}"
        yield Finding("call/repaired_json", (), message)
    if parsed.extra_text:
        yield Finding("call/extra_text", (), f"text outside the calls: {show(parsed.extra_text)}")


def judge_call(call: Call, index: int, tools: Mapping[str, Tool]) -> Iterator[Finding]:
    tool = tools.get(call.name)
    if tool is None:
        near = suggest(call.name, tools)
        message = f"no candidate is called {show(call.name)}{near}"
        yield Finding("call/unknown_tool", (index, "name"), message)
        return
    validator = read_tool(tool).validator
    try:
        with bounded_work():
            if validator.is_valid(call.arguments):
                return
            findings = _find_first(validator, call, tool)
    except TooMuchWork as error:
        message = f"{show(call.arguments)} is too large for this document: {error}"
        findings = [Finding("call/constraint_violation", (), message)]
    for finding in findings:
        yield finding._replace(path=(index, "arguments", *finding.path))


def _find_first(validator: Draft202012Validator, call: Call, tool: Tool) -> list[Finding]:
    """The first MAX_VERDICTS findings that differ in rule or path."""
    found: dict[tuple[str, Parts], Finding] = {}
    for error in validator.iter_errors(call.arguments):
        for finding in _judge_error(error, call, tool):
            found.setdefault(finding[:2], finding)
            if len(found) == MAX_VERDICTS:
                return list(found.values())
    return list(found.values())


def _judge_error(error: ValidationError, call: Call, tool: Tool) -> Iterator[Finding]:
    """A JSON Schema error as findings, one for each missing or unknown name."""
    path: Parts = tuple(error.absolute_path)
    if error.validator == "required":
        rule = "call/object_nested_schema" if path else "call/missing_required"
        for name in error.validator_value:
            if name not in error.instance:
                message = f"{show(name, 60)} is required and missing in {show(error.instance)}"
                yield Finding(rule, (*path, name), message)
    elif error.validator == "additionalProperties" and error.validator_value is False:
        rule = "call/object_nested_schema" if path else "call/unknown_argument"
        known = error.schema.get("properties", {})
        for name in error.instance:
            if not is_named(name, error.schema):
                owner = "the object" if path else f"tool {show(call.name, 60)}"
                message = f"{show(name, 60)} is no argument of {owner}{suggest(name, known)}"
                yield Finding(rule, (*path, name), message)
    else:
        yield Finding(_classify(str(error.validator), path), path, explain(error))


def _classify(keyword: str, path: Parts) -> str:
    """The rule of a broken keyword, by what it is and whether it lies in an object or array."""
    if any(isinstance(part, str) for part in path[1:]):
        return "call/object_nested_schema"
    if keyword in ("items", "prefixItems") or (
        len(path) > 1 and keyword in ("type", "anyOf", "oneOf", "allOf", "not")
    ):
        return "call/array_item_type"
    if keyword in ("type", "anyOf", "oneOf", "allOf", "not"):
        return "call/wrong_type"
    return "call/enum_violation" if keyword in ("enum", "const") else "call/constraint_violation"


def judge_duplicates(calls: Sequence[Call], tools: Mapping[str, Tool]) -> Iterator[Finding]:
    if len(calls) < 2:
        return
    seen: dict[str, int] = {}
    for index, call in enumerate(calls):
        key = make_key([call], tools).text
        if key in seen:
            message = f"call {index} repeats call {seen[key]}: {show(call.arguments)}"
            yield Finding("call/duplicate_call", (index,), message)
        seen.setdefault(key, index)


def judge_grounding(
    calls: Sequence[Call], tools: Mapping[str, Tool], query: str
) -> Iterator[Finding]:
    """Required texts and numbers that stand neither in the query nor in the tool's schema."""
    words, numbers = _fold(query), _numbers(query)
    for index, call in enumerate(calls):
        tool = tools.get(call.name)
        if tool is None:
            continue
        compiled = read_tool(tool)
        for name in sorted(compiled.required & call.arguments.keys()):
            value, schema = call.arguments[name], compiled.properties.get(name, {})
            if {"enum", "const"} & schema.keys() or value == schema.get("default", ...):
                continue
            if not _is_grounded(value, words, numbers):
                message = f"{show(value)} stands nowhere in the query"
                yield Finding("call/ungrounded_value", (index, "arguments", name), message)


def find_unsaid(calls: Sequence[Call], text: str) -> list[str]:
    """Texts and numbers of calls, within lists and objects too, that a text does not say: whole
    words, and numbers with their sign.
    """
    words = _fold(text)
    signed = {_number(match) for match in _SIGNED_NUMBER.findall(text.replace("−", "-"))}
    return [
        show(value)
        for value in _leaves(calls)
        if (_fold(value) not in words if isinstance(value, str) else value not in signed)
    ]


def judge_use(calls: Sequence[Call], tools: Mapping[str, Tool], query: str) -> Iterator[Finding]:
    """What the query marks as a value and no call holds, but for single words that name a kind of
    value, such as "ID", or that a document of a called tool or a value says in some form.
    """
    if not (unused := find_unused(calls, query)):
        return
    called = [tools[name] for name in {call.name: None for call in calls} if name in tools]
    said = [*(tool.document for tool in called), *(call.arguments for call in calls)]
    words = _KINDS | set(_fold(_PARTS.sub(" ", canonical_json(said))).split())
    for text in islice((text for text in unused if not _is_said(text, words)), MAX_VERDICTS):
        yield Finding("call/unused_value", (), f"{show(text)} of the query stands in no call")


def _is_said(name: str, words: Set[str]) -> bool:
    """Whether a word with a capital is one of the words, or begins as one does: "Africa" is said
    with "African".
    """
    word = name.casefold()
    return name[:1].isupper() and (
        word in words
        or any(
            min(len(word), len(other)) >= _SHORTEST_STEM
            and (word.startswith(other) or other.startswith(word))
            for other in words
        )
    )


def find_unused(calls: Sequence[Call], text: str) -> list[str]:
    """Numbers, names, addresses and quoted texts of a text that no call holds, each once.

    Where a call holds a date or a time that the text writes otherwise, its numbers and the names of
    months and days may be in that.
    """
    leaves = list(_leaves(calls))
    texts = [leaf for leaf in leaves if isinstance(leaf, str)]
    said = "".join(map(_fold, (*(call.name.replace("_", " ") for call in calls), *texts)))
    numbers = {abs(leaf) for leaf in leaves if not isinstance(leaf, str)}
    rewritten = any(_MOMENT.search(leaf) and leaf not in text for leaf in texts)

    def is_used(marked: str) -> bool:
        if _fold(marked) in said:
            return True
        if (number := _MEASURE.match(marked)) is None:
            return rewritten and marked[:3].casefold() in _MONTHS_AND_DAYS
        value = _number(number[0])
        return rewritten or value in numbers or (marked[-1] == "%" and value / 100 in numbers)

    return [marked for marked in dict.fromkeys(find_marked(text)) if not is_used(marked)]


def find_marked(query: str) -> Iterator[str]:
    """What a query marks as a value: quoted texts, numbers, words with an @ or with a digit and a
    capital, and words with a capital that begin no sentence.
    """
    yield from (match[1] for match in _QUOTED.finditer(query) if _WORD.search(match[1]))
    for line in query.splitlines():
        begins = True
        for token in filter(None, _APART.split(line)):
            word = _OWNED.sub("", token.strip(_AROUND))
            starts = begins or token[0] in '("“' or _I.fullmatch(word)
            is_name = word[:1].isupper() and not starts
            is_number = word[:1].isdigit() or (
                any(map(str.isdigit, word)) and any(map(str.isupper, word))
            )
            if _WORD.search(word) and (is_name or is_number or "@" in word):
                yield f"{word}%" if is_number and token.rstrip(_ENDS).endswith("%") else word
            begins = token.rstrip(_CLOSING)[-1:] in _BEFORE_SENTENCES


def _leaves(calls: Sequence[Call]) -> Iterator[str | int | float]:
    """Texts and numbers of the arguments."""
    for call in calls:
        for _, leaf in walk(call.arguments):
            if isinstance(leaf, str | int | float) and not isinstance(leaf, bool):
                yield leaf


def _numbers(text: str) -> set[int | float]:
    return {_number(match) for match in _PLAIN_NUMBER.findall(text)}


def _number(text: str) -> int | float:
    plain = text.replace(",", "")
    return float(plain) if "." in plain or len(plain) > _MOST_DIGITS else int(plain)


def _is_grounded(value: object, words: str, numbers: Container[int | float]) -> bool:
    if isinstance(value, str):
        folded = _fold(value).strip()
        # "0" is not in "10", and "noon" not in "afternoon", but "seat" is in "seats".
        before = " " if folded[:1].isascii() else ""
        after = " " if folded[-1:].isdigit() else ""
        return f"{before}{folded}{after}" in words
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    return abs(value) in numbers


def _fold(text: str) -> str:
    """Words in lower case, one blank around each."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "

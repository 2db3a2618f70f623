"""JSON under a tool's own schema, token by token: the arguments of one tool, or a list of calls.

llguidance says which tokens may follow. What is ours is which schema binds which tokens: a tool's
parameters as factory.tools.schema reads them, so that no answer in full falls for a wrong type, an
invented argument or a missing one. Properties come in the schema's order, with at most one blank
after a comma or a colon. Numbers that the schema does not bound are written out between -1e15 and
1e15. Keywords of LOOSE are left to the rules that judge the answer, and so are a name that stands
twice in an object without declared properties and a fraction of a hundred digits. Any other schema
that the library cannot express is Unsupported: nothing is answered in its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from factory.domain.failures import MissingError
from factory.engines.callform import CallForm, Tagged, Unsupported, pattern_of, quote
from factory.engines.chat import Chat
from factory.tools.formats import FORMATS
from factory.tools.schema import arguments_schema

if TYPE_CHECKING:
    from llguidance import LLMatcher

LOOSE = frozenset(
    {"uniqueItems", "contains", "minContains", "maxContains", "propertyNames", "multipleOf"}
    | {"dependentRequired", "default"}
)
"""Keywords that do not bind what is written: breaking them is constraint_violation at worst."""
BOUND = 10**15
"""Largest number where a schema names no other; every integer up to it is exact as a float."""
LAYOUT: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
}
"""Blanks between the parts of JSON, as expressions."""
ANY = "any"
"""Definition, in a schema, of a value of any type."""
ONLY_END = 'start: ""'
"""The grammar of the empty answer."""


def arguments_grammar(document: Mapping[str, Any]) -> str:
    """The grammar of a tool's arguments: one JSON object, then the end of the turn."""
    return json.dumps({"grammars": [{"json_schema": _closed(document)}]})


def calls_grammar(
    documents: Sequence[Mapping[str, Any]],
    form: CallForm,
    *,
    once: bool = False,
    words: bool = False,
) -> str:
    """The grammar of one call or more in a form, each of one of the tools with its schema; with
    `once` of one call, with `words` also of an answer that calls nothing. Raises Unsupported for a
    name that the form cannot write.
    """
    by_name = {str(document["name"]): document for document in documents}
    more = "" if once or not form.between else f" ({form.between} call)*"
    head = [
        f"start: {form.opening} call{more} {form.closing}{' | WORDS' if words else ''}",
        f"call: {' | '.join(f'call_{number}' for number in range(len(by_name)))}",
        *([rf"WORDS: /(.|\n)*/ & ~/(.|\n)*{form.sign}(.|\n)*/"] if words else []),
    ]
    calls = []
    for number, (name, document) in enumerate(by_name.items()):
        written = [f"%json {json.dumps(_closed(document))}"]
        if form.tagged is not None:
            written = _tagged_arguments(document, form, form.tagged, f"call_{number}")
        first, *rules = written
        calls += [f"call_{number}: {form.write_name(name)} {form.middle} {first}", *rules]
    return "\n".join([*head, *calls])


_TEXTUAL = frozenset({"type", "enum", "const", "minLength", "maxLength", "format"}) | LOOSE
_NOTES = frozenset({"title", "description", "examples", "$comment", "deprecated"})


def _tagged_arguments(
    document: Mapping[str, Any], form: CallForm, tagged: Tagged, call: str
) -> list[str]:
    """Arguments one by one, in the schema's order, then the rules that this names. Raises
    Unsupported for what binds more than one value at a time, and for a text bound by an expression.
    """
    schema = arguments_schema(document["arguments"])
    known = {"type", "properties", "required", "additionalProperties"} | _NOTES
    if more := schema.keys() - known or {*schema["required"]} - schema["properties"].keys():
        raise Unsupported(
            f"{document['name']}: {', '.join(sorted(more))} of arguments between tags"
        )
    names, rules = [], []
    for place, (name, part) in enumerate(schema["properties"].items()):
        rule = f"{call}_{place}"
        names.append(rule if name in schema["required"] else f"{rule}?")
        text = _text_pattern(part, f"{document['name']}.{name}")
        value = f"%json {json.dumps(lower(part) | _COMMON)} {quote(tagged.head)}"
        if text is not None:
            value = f"TEXT_{rule.upper()}"
            until = pattern_of(tagged.until)
            body = " & ".join([rf"/(.|\n)*/ & ~/(.|\n)*{until}(.|\n)*/", *text])
            rules.append(f"{value}: ({body}) {quote(tagged.head)}")
        rules.append(
            f"{rule}: {tagged.start} {form.write_name(name)} {tagged.middle} {value} {tagged.end}"
        )
    return [" ".join(names), *rules]


def _text_pattern(schema: Any, where: str) -> list[str] | None:
    """What a text of the schema matches; None where its values are JSON. Raises Unsupported where
    they may be either, and for keywords that are no expression of letters.
    """
    schema = schema if isinstance(schema, dict) else {}
    if schema.keys() - _NOTES - LOOSE == {"anyOf"}:
        others = [part for part in schema["anyOf"] if part != {"type": "null"}]
        found = [_text_pattern(part, where) for part in others]
        if len(found) == 1 or (found and all(each is None for each in found)):
            return found[0]
    kinds = {schema["type"]} if isinstance(schema.get("type"), str) else {*schema.get("type", ())}
    if kinds and "string" not in kinds:
        return None
    options = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if options is not None and not any(isinstance(option, str) for option in options):
        return None
    texts = [option for option in options or () if isinstance(option, str)]
    if (not kinds and options is None) or not kinds <= {"string", "null"}:
        raise Unsupported(f"{where}: a value between tags that may be a text or not")
    if more := schema.keys() - _TEXTUAL - _NOTES:
        raise Unsupported(f"{where}: {', '.join(sorted(more))} of a text between tags")
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    patterns = [rf"/(.|\n){{{least},{most}}}/"] if least or most != "" else []
    if options is not None:
        patterns.append(f"/({'|'.join(map(pattern_of, texts))})/")
    if (form := str(schema.get("format"))) in FORMATS:
        slash = re.compile(r"(?<!\\)/")
        patterns.append("/(" + slash.sub(r"\/", FORMATS[form].written) + ")/")
    return patterns


def _closed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of a tool's arguments in the library's words, its layout included."""
    schema: dict[str, Any] = lower(arguments_schema(document["arguments"]))
    return schema | _COMMON


def lower(schema: Any) -> Any:
    """A JSON Schema whose values, as the library writes them, pass `factory.tools.schema`."""
    if isinstance(schema, list):
        return [lower(part) for part in schema]
    if schema is True or schema == {}:
        return {"$ref": f"#/$defs/{ANY}"}
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    for key, part in schema.items():
        if key in ("properties", "patternProperties", "dependentSchemas"):
            out[key] = {name: lower(inner) for name, inner in part.items()}
        elif key in ("enum", "const", "required", "type"):
            out[key] = part
        elif key == "format":
            if part in FORMATS:
                out["allOf"] = [*out.get("allOf", ()), {"pattern": f"^({FORMATS[part].written})$"}]
        elif key == "allOf":
            out[key] = [*out.get(key, ()), *lower(part)]
        elif key not in LOOSE:
            out[key] = lower(part)
    kinds = {*out["type"]} if isinstance(out.get("type"), list) else {out.get("type")}
    if kinds & {"integer", "number"}:
        _bound(out)
    if "object" in kinds:
        out.setdefault("additionalProperties", lower(True))
    if "array" in kinds:
        out.setdefault("items", lower(True))
    return out


def _bound(schema: dict[str, Any]) -> None:
    """Bounds, in place, that rule out exponents and numbers of a hundred digits."""
    if not schema.keys() & {"enum", "const"}:
        if not schema.keys() & {"minimum", "exclusiveMinimum"}:
            schema["minimum"] = min(-BOUND, schema.get("maximum", 0))
        if not schema.keys() & {"maximum", "exclusiveMaximum"}:
            schema["maximum"] = max(BOUND, schema.get("minimum", 0))


_KINDS = ("string", "number", "boolean", "null", "array", "object")
_COMMON: dict[str, Any] = {
    "$defs": {ANY: {"anyOf": [lower({"type": kind}) for kind in _KINDS]}},
    "x-guidance": LAYOUT,
}
"""What stands at the top of every schema."""


class Grammars:
    """Grammars over the tokens of one model, each compiled once.

    Example: matcher = load_grammars("checkpoints/r1", 4096).start(arguments_grammar(document)).
    """

    def __init__(self, folder: Path, vocabulary: int) -> None:
        """Read the tokenizer of a model folder. Raises MissingError without llguidance, Unsupported
        where the tokenizer has no fast form, so that its tokens' bytes are not known.
        """
        try:
            # Here, since an environment may lack it: only constrained requests need it.
            import llguidance
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise MissingError(
                "llguidance, which constrains arguments, is not installed",
                remedy="pip install 'tool-factory[train]'",
            ) from error

        chat = Chat(folder)
        self.vocabulary = vocabulary
        """V: width of the logits."""
        self.end_ids = sorted(chat.end_ids)
        try:
            self._tokens = from_tokenizer(
                chat.tokenizer, n_vocab=max(vocabulary, len(chat.tokenizer)), eos_token=self.end_ids
            )
        except ValueError as error:
            raise Unsupported(f"the tokenizer cannot be read byte by byte: {error}") from error
        self._matcher = llguidance.LLMatcher
        self._executor = llguidance.LLExecutor(num_threads=torch.get_num_threads())
        self._compile = lru_cache(maxsize=4096)(self._compile_new)

    def start(self, grammar: str) -> LLMatcher:
        """A matcher before its first token. Unsupported where the grammar cannot be compiled."""
        matcher, problem = self._compile(grammar)
        if problem:
            raise Unsupported(problem)
        return matcher.deep_copy()

    def _compile_new(self, grammar: str) -> tuple[LLMatcher, str]:
        matcher = self._matcher(self._tokens, grammar, log_level=0)
        return matcher, " ".join(matcher.get_error().split())[:300] if matcher.is_error() else ""

    def mask(self, matchers: Sequence[LLMatcher]) -> npt.NDArray[np.uint8]:
        """(C, V / 8) tokens that may come next of each matcher, a bit each, lowest first.

        Where a matcher met what it does not allow, or its limits, only the end may.
        """
        width = (self._tokens.vocab_size + 31) // 32 * 4
        bits_CB = np.zeros((len(matchers), width), np.uint8)
        sound = [(matcher, row) for row, matcher in enumerate(matchers) if not matcher.is_error()]
        if sound:
            self._executor.unsafe_compute_mask_ptr(sound, bits_CB.ctypes.data, width, len(matchers))
        for row, matcher in enumerate(matchers):
            if matcher.is_error():
                bits_CB[row] = 0
                for token in self.end_ids:
                    bits_CB[row, token // 8] |= 1 << token % 8
        return bits_CB


@lru_cache(maxsize=4)
def load_grammars(folder: str, vocabulary: int) -> Grammars:
    """The grammars of a model folder, one set a process."""
    return Grammars(Path(folder), vocabulary)


class Writer:
    """One answer on its way through a grammar, found again from its tokens at each step.

    The matcher rolls on with the tokens it has not seen; where those it has seen are others now,
    it starts anew.
    """

    def __init__(self, grammars: Grammars) -> None:
        self.grammars = grammars
        self._grammar = ""
        self._seen: list[int] = []
        self._matcher: LLMatcher | None = None

    def follow(self, grammar: str, token_ids: Sequence[int]) -> LLMatcher:
        """The matcher after `token_ids`. Unsupported where the grammar cannot be compiled."""
        tokens, num_seen, matcher = list(token_ids), len(self._seen), self._matcher
        if matcher is None or grammar != self._grammar or tokens[:num_seen] != self._seen:
            matcher, num_seen = self.grammars.start(grammar), 0
        if len(tokens) > num_seen:
            matcher.consume_tokens(tokens[num_seen:])
        self._matcher, self._grammar, self._seen = matcher, grammar, tokens
        return matcher


class Documents:
    """The documents of a catalogue's tools, with grammars of their arguments."""

    def __init__(self, path: Path) -> None:
        rows = map(json.loads, path.read_text("utf-8").splitlines())
        self._documents = {str(row["tool_id"]): row["document"] for row in rows}
        self._grammars: dict[str, str] = {}

    def grammar(self, tool_id: str | None) -> str:
        """The grammar of a tool's arguments; of nothing but the end where there is no such tool."""
        if tool_id is None or tool_id not in self._documents:
            return ONLY_END
        if tool_id not in self._grammars:
            self._grammars[tool_id] = arguments_grammar(self._documents[tool_id])
        return self._grammars[tool_id]


def read_documents(path: str) -> Documents:
    """Documents of a codebook's tools.jsonl, cached until the file changes."""
    return _read_documents(Path(path), Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _read_documents(path: Path, stamp: int) -> Documents:
    return Documents(path)

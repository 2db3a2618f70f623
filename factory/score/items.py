"""One question of a benchmark of calls, and its functions as tool documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from factory.domain.canon import to_json
from factory.domain.records import Message
from factory.score.calls.bfcl import LANGUAGES, PYTHON, CodeLanguage, item_word
from factory.tools.dialects import to_document

JudgedBy = Literal["python", "java", "javascript", "no_call", "any_call"]
"""How a category is judged: calls in a language against gold, or whether anything is called."""
JSON_SCHEMA_WORDS = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
"""BFCL's type words that JSON Schema writes differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question. Example: Item(id="simple_7", category="simple", query="Book a table for 4",
    functions=({"name": "book_table", "parameters": {…}},), ground_truth=({"book_table":
    {"people": [4]}},)).
    """

    id: str
    """Unique in the benchmark."""
    category: str
    query: str
    """The messages of its one turn, joined by blank lines."""
    functions: tuple[dict[str, Any], ...]
    """Functions on offer, in BFCL's dialect (`parameters`)."""
    ground_truth: tuple[Any, ...]
    """Expected calls: {function: {argument: [allowed values]}}; "" allows leaving out. Empty where
    the judge asks only whether anything is called; other kinds put what is right there."""
    messages: tuple[Message, ...] = ()
    """The messages of its one turn; empty is one user message, the query."""
    judge: JudgedBy = "python"
    """How the answer is judged."""

    @property
    def language(self) -> CodeLanguage:
        """The language of the calls."""
        return LANGUAGES.get(self.judge, PYTHON)

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The functions as a model sees them: other languages' values are literals in strings."""
        if self.language is PYTHON:
            return list(self.functions)
        return [_write_as_literals(function, self.language) for function in self.functions]

    @property
    def documents(self) -> list[dict[str, Any]]:
        """What is shown, in ToolDev's dialect, for our prompt."""
        return [to_document(function) for function in self.shown]

    @property
    def openai_tools(self) -> list[dict[str, Any]]:
        """What is shown, as OpenAI's API writes tools, for a chat template."""
        return [{"type": "function", "function": to_json_schema(f)} for f in self.shown]

    @property
    def turn(self) -> tuple[Message, ...]:
        """The messages of the turn, never empty."""
        return self.messages or (Message(role="user", content=self.query),)


def to_json_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """A BFCL function with the type words of JSON Schema."""
    return {key: _rename_types(v) if key == "parameters" else v for key, v in function.items()}


def _rename_types(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    renamed = dict(schema)
    word = schema.get("type")
    if isinstance(word, str):
        renamed["type"] = JSON_SCHEMA_WORDS.get(word, word)
    if "items" in schema:
        renamed["items"] = _rename_types(schema["items"])
    if isinstance(schema.get("properties"), dict):
        renamed["properties"] = {k: _rename_types(v) for k, v in schema["properties"].items()}
    return renamed


def _write_as_literals(function: Mapping[str, Any], language: CodeLanguage) -> dict[str, Any]:
    """The function with every argument a string, described as a literal of its type."""
    parameters = function["parameters"]
    properties = {
        name: {
            "type": "string",
            "description": f"{schema.get('description', '')} {_describe(schema, language)}".strip(),
        }
        for name, schema in parameters["properties"].items()
    }
    return {
        **function,
        "description": f"{function.get('description', '')} A {language.name} function.".strip(),
        "parameters": {**parameters, "properties": properties},
    }


def _describe(schema: Mapping[str, Any], language: CodeLanguage) -> str:
    """What the string of an argument holds."""
    word, items = schema["type"], item_word(schema, language)
    kind = "any type" if word == "any" else f"type {word}"
    parts = f" with items of type {items}" if items else ""
    if isinstance(schema.get("properties"), dict):
        parts = f" with the entries {to_json(schema['properties'])}"
    return f"Written as {language.name} code of {kind}{parts}, in a string."

"""Prompts: one Jinja file a message, strict and sandboxed.

`prompts/<stage>/<verb>.j2` is rendered with named variables; a missing variable is an error, and a
template reaches nothing but its variables. Beside each lies `<verb>.example.json`, an input and
the text it must render to, which the tests walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError

from factory.domain.bounded import parse_json, read_text
from factory.domain.canon import to_json
from factory.domain.failures import ContentError
from factory.domain.records import Call, Form, Message
from factory.workspace.folder import Workspace, file_sha, files_sha
from factory.workspace.templates import BoundedEnvironment


def _make_environment() -> BoundedEnvironment:
    environment = BoundedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False
    )
    environment.filters["json"] = to_json
    return environment


NOT_OF_ROUNDS = "prompts/requests/"
"""A round that is open goes on whatever becomes of these."""
_TEMPLATE_FAULTS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    MemoryError,
)
"""What the expressions of a template may raise."""


@dataclass(slots=True)
class Prompts:
    """The prompts in one folder of a workspace, compiled on first use.

    Those of benchmarks lie below eval/ and not in prompts/, whose hash a round holds on to: a
    judge's wording may change while a round is open. Example: Prompts(workspace, "eval/toolbench").
    """

    workspace: Workspace
    folder: str = "prompts"
    form: Form = "own"
    """How calls are asked for. In the native form the model's chat template shows the tools, and
    prompts/calls/ is for requests that are written from calls alone."""
    _environment: BoundedEnvironment = field(default_factory=_make_environment)
    _templates: dict[str, Template] = field(default_factory=dict)
    _shas: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, workspace: Workspace) -> Prompts:
        """All prompts, parsed, so that a broken one stops before a model is loaded.

        Raises ContentError with file and line.
        """
        prompts = cls(workspace)
        for path, _ in workspace.walk(prompts.folder, ".j2"):
            prompts._template(path.removeprefix(f"{prompts.folder}/").removesuffix(".j2"))
        return prompts

    def render(self, name: str, **variables: Any) -> str:
        """The text of prompt `name`, e.g. `tools/generate`; ContentError where it fails."""
        try:
            return self._template(name).render(**variables)
        except _TEMPLATE_FAULTS as error:
            raise ContentError(
                f"prompt {name} cannot be rendered: {error}", where=self._path(name)
            ) from error

    def check(self) -> None:
        """Render every prompt that has an example with the example's input.

        A workspace's own template is tried on the shipped example unless it brings its own.
        Raises ContentError for the first that fails.
        """
        for path, file in self.workspace.walk(self.folder, ".example.json"):
            name = path.removeprefix(f"{self.folder}/").removesuffix(".example.json")
            variables = _read_input(file)
            template = self._template(name)
            try:
                template.render(**variables)
            except _TEMPLATE_FAULTS as error:
                raise ContentError(
                    f"prompt {name} cannot be rendered: {error}",
                    where=str(self.workspace.find(self._path(name))),
                    remedy=f"its variables are {', '.join(variables) or 'none'}: see {file}",
                ) from error

    def source(self, name: str) -> str:
        """The text of prompt `name` as it is in its file."""
        path = self._path(name)
        return read_text(self.workspace.find(path), where=path)

    def sha(self, name: str) -> str:
        """SHA-256 of the prompt's file, 16 hex digits."""
        if name not in self._shas:
            self._shas[name] = file_sha(self.workspace.find(self._path(name)))
        return self._shas[name]

    def set_sha(self) -> str:
        """SHA-256 over all prompts that a round may ask with, 16 hex digits."""
        files = self.workspace.walk(self.folder, ".j2")
        return files_sha(each for each in files if not each[0].startswith(NOT_OF_ROUNDS))

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}.j2"

    def _template(self, name: str) -> Template:
        if name not in self._templates:
            path = self._path(name)
            try:
                source = read_text(self.workspace.find(path), where=path)
                self._templates[name] = self._environment.from_string(source)
            except TemplateError as error:
                line = getattr(error, "lineno", 0)
                raise ContentError(
                    f"prompt {name} cannot be parsed: {error}", where=f"{path}:{line}"
                ) from error
        return self._templates[name]


def invocation_messages(
    query: str, documents: Sequence[dict[str, Any]], prompts: Prompts
) -> tuple[Message, ...]:
    """The chat that asks for calls (P-INVOKE); `results` are not shown (Fig. 5)."""
    if prompts.form == "native":
        return (
            Message(role="system", content="", tools=tuple(_shown(documents))),
            Message(role="user", content=query),
        )
    return (
        Message(role="system", content=prompts.render("calls/system", tools=_shown(documents))),
        Message(role="user", content=prompts.render("calls/invoke", query=query)),
    )


def generation_messages(query: str, prompts: Prompts) -> tuple[Message, ...]:
    """The chat that asks for tools that solve `query` (P-GEN)."""
    return (
        Message(role="system", content=prompts.render("tools/system")),
        Message(role="user", content=prompts.render("tools/generate", query=query)),
    )


def asking_messages(
    calls: Sequence[Call], documents: Sequence[dict[str, Any]], prompts: Prompts
) -> tuple[Message, ...]:
    """The chat that asks for a request: P-INVOKE turned round, of the called tools alone."""
    names = {call.name for call in calls}
    shown = [document for document in _shown(documents) if document["name"] in names]
    return (
        Message(role="user", content=prompts.render("calls/ask", tools=shown, calls=list(calls))),
    )


def _shown(documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The documents as a model sees them that is to call."""
    return [
        {"name": d["name"], "description": d.get("description", ""), "arguments": d["arguments"]}
        for d in documents
    ]


def join_neighbours(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Messages of one role in a row as one: many chat templates want roles to alternate.

    Responses stay apart: each answers a call of its own.
    """
    joined: list[Message] = []
    for role, group in groupby(messages, key=lambda message: message.role):
        parts = list(group)
        if role == "tool":
            joined += parts
            continue
        joined.append(
            Message(
                role=role,
                content="\n\n".join(m.content for m in parts if m.content or not m.tools),
                calls=tuple(call for m in parts for call in m.calls),
                tools=tuple(tool for m in parts for tool in m.tools),
            )
        )
    return tuple(joined)


def _read_input(file: Path) -> dict[str, Any]:
    """The variables of an example. Raises ContentError where the file is no example."""
    example = parse_json(read_text(file), str(file))
    variables = example.get("input") if isinstance(example, dict) else None
    if not isinstance(variables, dict):
        raise ContentError('an example is an object with an object "input"', where=str(file))
    return variables

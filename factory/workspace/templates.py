"""Prompts of benchmarks: Jinja files below eval/, found through the overlay like all content.

They are apart from prompts/, whose hash a round holds on to: a judge's wording may change while a
round is open.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jinja2 import Template, TemplateError

from factory.domain.failures import ContentError
from factory.workspace.folder import Workspace, file_sha
from factory.workspace.prompts import make_environment


@dataclass(frozen=True, slots=True)
class Templates:
    """The prompts in one folder below eval/. Example: Templates(workspace, "toolbench")."""

    workspace: Workspace
    """Where the files are looked up."""
    folder: str
    """Folder below eval/."""
    _compiled: dict[str, Template] = field(default_factory=dict)

    def render(self, name: str, **variables: Any) -> str:
        """The text of eval/<folder>/<name>.j2. Raises ContentError where it fails."""
        path = f"eval/{self.folder}/{name}.j2"
        try:
            if name not in self._compiled:
                source = self.workspace.find(path).read_text(encoding="utf-8")
                self._compiled[name] = make_environment().from_string(source)
            return self._compiled[name].render(**variables)
        except (TemplateError, TypeError, ValueError) as error:
            raise ContentError(f"cannot be rendered: {error}", where=path) from error

    def sha(self, name: str) -> str:
        """SHA-256 of the file, 16 hex digits."""
        return file_sha(self.workspace.find(f"eval/{self.folder}/{name}.j2"))

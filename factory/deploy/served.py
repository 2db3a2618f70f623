"""What the processes of a server know of what they serve; its starter leaves it in their
environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

VARIABLE = "FACTORY_SERVED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Example: Served(folder="/ws/.factory/checkpoints/r1", workspace="/ws", scratch="/tmp/f-1")"""

    folder: str
    """Of the checkpoint."""
    workspace: str
    """Root of the workspace, whose prompts the model is asked with."""
    scratch: str
    """Folder for copies of tries; no other trie may be named by a request."""
    record: str = ""
    """File of transcripts; empty is none."""
    keyed: bool = False
    """Whether a key is asked for."""
    by_code: bool = True
    """Whether requests without tools are answered with the catalogue's."""
    max_length: int = 0
    """Tokens of the longest prompt with its answer; 0 where nobody has said."""

    def environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """KeyError where no starter left one."""
        return cls(**json.loads(environment[VARIABLE]))

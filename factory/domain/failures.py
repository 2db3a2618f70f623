"""Everything that can go wrong, by boundary.

FactoryError            what happened, where, and the command or edit that mends it
├── InputError          exit 2: a file, flag, recipe, prompt or rule is wrong
│   ├── RecipeError     a recipe or settings: unknown key, wrong type, value out of range
│   ├── ContentError    a prompt, rule or benchmark file cannot be used
│   └── ModelError      a model folder is missing, incomplete, or lacks its code tokens
├── EnvironmentError_   exit 3: the machine lacks something
│   ├── MissingError    a package, program or device is not there
│   ├── DiskError       no space, or a folder cannot be written
│   ├── BusyError       another process holds the workspace or the ledger
│   └── ChildError      a child process died, once or more often than it may
└── GateError           exit 1: a gate or a rule said no

A bad sample is none of these: it is a row with a reason (factory/judge/).
"""

from __future__ import annotations


class FactoryError(Exception):
    """Base of all expected failures; anything else is our bug (exit 4)."""

    exit_code = 4

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        """One sentence: what happened."""
        self.where = where
        """File and line, record id, process: where it happened; may be empty."""
        self.remedy = remedy
        """The command or edit that mends it; may be empty."""

    def __str__(self) -> str:
        where = f"\n  where:  {self.where}" if self.where else ""
        remedy = f"\n  remedy: {self.remedy}" if self.remedy else ""
        return f"{self.what}{where}{remedy}"


class InputError(FactoryError):
    exit_code = 2


class RecipeError(InputError): ...


class ContentError(InputError): ...


class ModelError(InputError): ...


class EnvironmentError_(FactoryError):
    exit_code = 3


class MissingError(EnvironmentError_): ...


class DiskError(EnvironmentError_): ...


class BusyError(EnvironmentError_): ...


class ChildError(EnvironmentError_): ...


class GateError(FactoryError):
    exit_code = 1

"""The console script. What it runs is imported inside, so that Ctrl-C has its answer at once."""

from __future__ import annotations

import sys
from importlib import import_module

STOPPED_CODE = 130
"""What a shell reports of a program that Ctrl-C stopped."""


def run() -> None:
    try:
        code = import_module("factory.cli.app").call()
    except KeyboardInterrupt:
        code = STOPPED_CODE
    if code == STOPPED_CODE:
        sys.stderr.write("stopped; nothing is lost: `factory round` continues where it was\n")
    sys.exit(code)

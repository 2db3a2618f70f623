"""Text, JSON and TOML of files that may be anything: read up to a size, and to Python's depth."""

from __future__ import annotations

import json
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from factory.domain.failures import ContentError, InputError

T = TypeVar("T")
SMALL = 16 << 20
"""Bytes of what people write by hand: recipes, rules, prompts, definitions, models' configs."""
DATA = 1 << 30
"""Bytes of a file of data that is read whole."""
UNSIZED = 64 << 20
"""Bytes of what is no regular file: a pipe or a device need not end."""
TOO_DEEP = "it is nested too deep"


def read_text(
    file: Path, *, where: str = "", most: int = SMALL, error: type[InputError] = ContentError
) -> str:
    """A file's text in UTF-8. Raises `error`, which names `where`, else the file."""
    where = where or str(file)
    try:
        with file.open("rb") as opened:
            if not stat.S_ISREG(file.stat().st_mode):
                most = min(most, UNSIZED)
            content = opened.read(most + 1)
        if len(content) <= most:
            return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise error(f"cannot be read: {cause}", where=where) from cause
    raise error(
        f"is longer than {most >> 20} MiB", where=where, remedy="give the file that was meant"
    )


def parse_json(text: str, where: str, error: type[InputError] = ContentError) -> Any:
    """A text's JSON. Raises `error` with the place that it stands at."""
    return _parse(json.loads, "JSON", text, where, error)


def parse_toml(text: str, where: str, error: type[InputError] = ContentError) -> dict[str, Any]:
    """A text's TOML. Raises `error` with the place that it stands at."""
    return _parse(tomllib.loads, "TOML", text, where, error)


def _parse(
    loads: Callable[[str], T], form: str, text: str, where: str, error: type[InputError]
) -> T:
    try:
        return loads(text)
    except ValueError as cause:
        raise error(f"not valid {form}: {cause}", where=where) from cause
    except RecursionError:
        raise error(f"not valid {form}: {TOO_DEEP}", where=where) from None

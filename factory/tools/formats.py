"""Formats of strings that a schema may name; others are only annotations, as JSON Schema has it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from typing import NamedTuple

from jsonschema import FormatChecker


class Format(NamedTuple):
    """What one format takes, and how an answer bound by it is written."""

    parse: Callable[[str], object]
    """Raises ValueError for a text of the shape that is none all the same."""
    shape: str
    """Expression that every text of the format matches in full."""
    written: str
    """Narrower expression without look-around: each text that matches it is one of the format."""


_DAY, _CLOCK = r"\d{4}-\d\d-\d\d", r"\d\d:\d\d(:\d\d(\.\d{1,6})?)?([Zz]|[+-]\d\d:\d\d)?"
# Every 29th of February is left out: whether there is one is beyond an expression.
_DAY_WRITTEN = (
    r"[1-9]\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)"
    r"|02-(0[1-9]|1\d|2[0-8]))"
)
_CLOCK_WRITTEN = (
    r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{3}|\.\d{6})?)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)?"
)
_BYTE = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_UUID = r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"

FORMATS: Mapping[str, Format] = {
    "date": Format(date.fromisoformat, _DAY, _DAY_WRITTEN),
    "time": Format(time.fromisoformat, _CLOCK, _CLOCK_WRITTEN),
    "date-time": Format(
        datetime.fromisoformat, f"{_DAY}[Tt ]{_CLOCK}", f"{_DAY_WRITTEN}[T ]{_CLOCK_WRITTEN}"
    ),
    "email": Format(
        str, r"[^@\s]{1,64}@[^@\s]{1,255}", r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,255}"
    ),
    "ipv4": Format(ipaddress.IPv4Address, r"[0-9.]{7,15}", rf"({_BYTE}\.){{3}}{_BYTE}"),
    "ipv6": Format(
        ipaddress.IPv6Address, r"[0-9A-Fa-f:.%]{2,64}", r"([0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}"
    ),
    "uuid": Format(str, _UUID, _UUID),
    "uri": Format(str, rf"{_SCHEME}:\S+", rf"{_SCHEME}:[!-~]+"),
}


def _make_check(one: Format) -> Callable[[object], bool]:
    form = re.compile(one.shape)

    def check(instance: object) -> bool:
        if not isinstance(instance, str):
            return True
        if len(instance) > 2048 or form.fullmatch(instance) is None:
            return False
        one.parse(instance)
        return True

    return check


def _make_checker() -> FormatChecker:
    checker = FormatChecker(formats=())
    for name, one in FORMATS.items():
        checker.checks(name, raises=ValueError)(_make_check(one))
    return checker


CHECKER = _make_checker()
"""What validators ask."""

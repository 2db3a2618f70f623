"""Formats of strings that a schema may name; others are only annotations, as JSON Schema has it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from datetime import date
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


_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
# Every 29th of February is left out: whether there is one is beyond an expression.
_DAY_WRITTEN = (
    r"[1-9]\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)"
    r"|02-(0[1-9]|1\d|2[0-8]))"
)
_CLOCK_WRITTEN = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{3}|\.\d{6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
_BYTE = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_UUID = r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"


def _parse_clock(text: str) -> None:
    """RFC 3339's full-time (section 5.6): a leap second only where UTC has them, at 23:59:60."""
    hour, minute, second = int(text[:2]), int(text[3:5]), int(text[6:8])
    offset = 0
    if text[-1] not in "Zz":
        hours, minutes = int(text[-5:-3]), int(text[-2:])
        if hours > 23 or minutes > 59:
            raise ValueError("no offset of a time zone")
        offset = (hours * 60 + minutes) * (1 if text[-6] == "+" else -1)
    if hour > 23 or minute > 59 or second > 60:
        raise ValueError("no time of a day")
    if second == 60 and (hour * 60 + minute - offset) % 1440 != 1439:
        raise ValueError("no leap second")


def _parse_moment(text: str) -> None:
    date.fromisoformat(text[:10])
    _parse_clock(text[11:])


FORMATS: Mapping[str, Format] = {
    "date": Format(date.fromisoformat, _DAY, _DAY_WRITTEN),
    "time": Format(_parse_clock, _CLOCK, _CLOCK_WRITTEN),
    "date-time": Format(
        _parse_moment, f"{_DAY}[Tt ]{_CLOCK}", f"{_DAY_WRITTEN}[T ]{_CLOCK_WRITTEN}"
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

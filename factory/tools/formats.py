"""Formats of strings that a schema may name."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import date, datetime, time

from jsonschema import FormatChecker


def _checked(parse: Callable[[str], object], shape: str) -> Callable[[object], bool]:
    """A format test: the text has the shape, is short, and `parse` takes it."""
    form = re.compile(shape)

    def check(instance: object) -> bool:
        if not isinstance(instance, str):
            return True
        if len(instance) > 2048 or form.fullmatch(instance) is None:
            return False
        parse(instance)
        return True

    return check


def _make_formats() -> FormatChecker:
    """The formats that are judged; others are only annotations, as JSON Schema has it."""
    day, clock = r"\d{4}-\d\d-\d\d", r"\d\d:\d\d(:\d\d(\.\d{1,6})?)?([Zz]|[+-]\d\d:\d\d)?"
    formats: dict[str, tuple[Callable[[str], object], str]] = {
        "date": (date.fromisoformat, day),
        "time": (time.fromisoformat, clock),
        "date-time": (datetime.fromisoformat, f"{day}[Tt ]{clock}"),
        "email": (str, r"[^@\s]{1,64}@[^@\s]{1,255}"),
        "ipv4": (ipaddress.IPv4Address, r"[0-9.]{7,15}"),
        "ipv6": (ipaddress.IPv6Address, r"[0-9A-Fa-f:.%]{2,64}"),
        "uuid": (str, r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"),
        "uri": (str, r"[A-Za-z][A-Za-z0-9+.-]*:\S+"),
    }
    checker = FormatChecker(formats=())
    for name, (parse, shape) in formats.items():
        checker.checks(name, raises=ValueError)(_checked(parse, shape))
    return checker


FORMATS = _make_formats()

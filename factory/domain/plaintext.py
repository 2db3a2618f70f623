"""Text of models as people see it: what a terminal or a page would act on is an escape."""

from __future__ import annotations

import re

_ACTIVE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufff9-\ufffb\ufffe\uffff"
    r"\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # what turns or breaks the line
    r"\u00ad\u200b\u2060-\u2064\ufeff\U000e0000-\U000e007f]"  # what is not seen
)


def clean(value: object) -> str:
    """`value` as text without control or invisible characters but line breaks; None is empty."""
    text = "" if value is None else str(value)
    if text.isascii() and text.isprintable():
        return text
    return _ACTIVE.sub(_escape, text)


def shorten(value: object, width: int) -> str:
    """`value` on one line, at most `width` characters."""
    text = " ".join(clean(value).split())
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def _escape(hit: re.Match[str]) -> str:
    code = ord(hit.group())
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"

"""Text of models made safe: what a terminal or a page would act on and what UTF-8 cannot hold.

JSON can name half of a surrogate pair, so a model's text may hold one; no UTF-8 file, Arrow table
or tokenizer takes it.
"""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")
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
    return _ACTIVE.sub(_escape_short, text)


def shorten(value: object, width: int) -> str:
    """`value` on one line, at most `width` characters."""
    text = " ".join(clean(value).split())
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def printable(text: str) -> str:
    """`text` with control, format and surrogate characters written as JSON's escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def is_unicode(text: str) -> bool:
    """Whether `text` is without lone surrogates."""
    return text.isascii() or not _SURROGATE.search(text)


def storable(value: object) -> object:
    """The value as the ledger stores it: lone surrogates as their `\\udXXX` escape."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def encodable(text: str) -> str:
    """`text` as a tokenizer takes it: lone surrogates are `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _escape(letter: str) -> str:
    code = ord(letter)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _escape_short(hit: re.Match[str]) -> str:
    code = ord(hit.group())
    return f"\\x{code:02x}" if code <= 0xFF else _escape(hit.group())

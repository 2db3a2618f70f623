"""Canonical JSON, content ids, and seeds derived from ids.

Ids are content addresses, so the same query or tool has the same id in every round and on every
machine. Seeds are derived from ids (algorithms A50): a sample depends on what it is, never on
which batch it happened to share.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Any

CATEGORY = "category_name"
"""Key of a tool document that says nothing of what the tool is (ToolBench's name)."""
SEED_STRIDE = 256
"""Distance between derived seeds. An engine gives n samples the seeds s, s+1, …, s+n-1."""
_CANONICAL = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
)


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces; NaN and Infinity are refused (ValueError)."""
    return _CANONICAL.encode(value)


def digest(text: str, length: int = 12) -> str:
    """First `length` hex digits of the SHA-256 of `text` (lone surrogates are kept apart)."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def normalise_text(text: str) -> str:
    """NFC, outer white space trimmed, runs of white space collapsed (algorithms §9.2)."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def query_id(text: str) -> str:
    """Content id of a query: equal up to case and white space means equal."""
    return "q_" + digest(normalise_text(text).casefold())


def tool_id(document: dict[str, Any], text: str = "") -> str:
    """Content id of a tool document, over all keys but CATEGORY: where a catalogue files a tool.

    `text` is its canonical JSON, where that is known already.
    """
    if text and CATEGORY not in document:
        return "t_" + digest(text)
    content = {key: part for key, part in document.items() if key != CATEGORY}
    return "t_" + digest(canonical_json(content))


def derive_seed(*parts: object) -> int:
    """A seed below 2**62, a multiple of SEED_STRIDE, from the parts' texts."""
    text = "\x1f".join(str(part) for part in parts)
    return int(digest(text, 16), 16) % (2**62) // SEED_STRIDE * SEED_STRIDE


ENCODE_PROMPT = "codes/encode"
"""A document as codes are learnt from it."""
COMPRESS_PROMPT = "codes/compress"
"""A document as compression reads it (A19)."""


def to_json(value: object) -> str:
    """JSON as models write it: default separators, no escapes of non-ASCII letters."""
    return json.dumps(value, ensure_ascii=False)

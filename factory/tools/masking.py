"""Names, addresses, numbers and keys of a row, put out of it on the way in.

Patterns, not a model: what they find is the same on every machine. A value gets one pseudonym
within a row, in its text and in its calls (`EMAIL_1`); a number in a call stays a number. Dates,
times and amounts are kept: a request is about them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple


class PrivatePattern(NamedTuple):
    """What is masked under a name; `group` is the part of a match that is."""

    kind: str
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] = lambda text: True
    """Whether a match is one indeed."""


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _is_card(text: str) -> bool:
    """By the check digit of cards (Luhn)."""
    digits = [int(letter) for letter in _digits(text)][::-1]
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return 13 <= len(digits) <= 19 and (sum(digits[::2]) + doubled) % 10 == 0


def _is_iban(text: str) -> bool:
    """By its remainder to 97 (ISO 13616)."""
    text = text.replace(" ", "")
    moved = text[4:] + text[:4]
    return 15 <= len(text) <= 34 and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def _is_phone(text: str) -> bool:
    return 7 <= len(_digits(text)) <= 15 and not _DATE.fullmatch(text.strip())


def _is_secret(text: str) -> bool:
    """A long text of letters and digits mixed, as nobody's word is."""
    return sum(c.isdigit() for c in text) >= 4 and sum(c.isalpha() for c in text) >= 4


_DATE = re.compile(r"\d{4}[-./ ]\d{1,2}[-./ ]\d{1,2}|\d{1,2}[-./ ]\d{1,2}[-./ ]\d{4}")
_NAME = r"[A-Z\u00c0-\u00de][\w'\u2019-]+"
_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Square|Sq|Way|Place)"
)
_TITLES = r"(?:Mr|Mrs|Ms|Miss|Dr|Prof|Sir|Herr|Frau|Madame|Monsieur|Se\u00f1ora?)\.?"
_SAID = r"(?:[Mm]y name is|[Nn]ame is|[Nn]ame:|[Mm]ein Name ist|[Dd]ear|[Rr]egards,|I am called)"
_NAMES = re.compile(
    "(?:Adam|Ahmed|Aisha|Alan|Alexander|Alice|Amy|Andrea|Andrew|Anna|Anne|Anthony|Barbara|Ben|Brian|"
    "Carlos|Carol|Charles|Charlotte|Chloe|Chris|Christian|Christine|Claire|Daniel|David|Deborah|Diana|"
    "Edward|Elena|Elizabeth|Ella|Emily|Emma|Eric|Erik|Eva|Fatima|Frank|George|Grace|Hannah|Hans|Helen|"
    "Henry|Ingrid|Isabella|Jack|Jacob|James|Jane|Jason|Jennifer|Jessica|Johan|John|Jonathan|Jose|Joseph|"
    "Joshua|Juan|Julia|Karen|Karl|Katherine|Kevin|Laura|Lars|Lena|Linda|Lisa|Lucas|Lucy|Luis|Maria|"
    "Marie|Mark|Martin|Mary|Matthew|Michael|Mohammed|Natalie|Nicholas|Nicole|Oliver|Olivia|Patricia|"
    "Patrick|Paul|Peter|Philip|Rachel|Rebecca|Richard|Robert|Ruth|Ryan|Samuel|Sandra|Sarah|Simon|Sophia|"
    "Sophie|Stephen|Steven|Susan|Thomas|Timothy|Ursula|Victoria|William|Wei|Yuki|Zoe)"
    rf"(?:\s{_NAME})?(?!\w)"
)

PATTERNS: tuple[PrivatePattern, ...] = (
    PrivatePattern(
        "KEY", re.compile(r"-----BEGIN [A-Z ]*KEY-----.*?-----END [A-Z ]*KEY-----", re.DOTALL)
    ),
    PrivatePattern("KEY", re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*")),
    PrivatePattern(
        "KEY",
        re.compile(
            r"\b(?:sk|pk|rk)[-_][\w-]{16,}|\bgh[opsu]_\w{20,}|\bgithub_pat_\w{20,}|\bxox[abprs]-[\w-]{10,}"
            r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{30,}|\bhf_\w{20,}|\bglpat-[\w-]{16,}"
        ),
    ),
    PrivatePattern(
        "KEY",
        re.compile(
            r"(?i:\b(?:api[ _-]?key|secret|pass(?:word|wd|code)|(?:access[ _-])?token|bearer|pin)\b"
            r"(?:\s+is|\s*[:=])?\s*[\"']?)(?P<part>[^\s\"',;]{6,}|\d{4,})"
        ),
        lambda text: any(c.isdigit() for c in text),
    ),
    PrivatePattern("EMAIL", re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)*\.\w{2,}")),
    PrivatePattern("IP", re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")),
    PrivatePattern(
        "IP", re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}(?![\w:])")
    ),
    PrivatePattern(
        "IBAN", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), _is_iban
    ),
    PrivatePattern("CARD", re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)"), _is_card),
    PrivatePattern("SECRET", re.compile(r"(?<![\w/+])[\w/+-]{32,}={0,2}"), _is_secret),
    PrivatePattern("ID", re.compile(r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)")),
    PrivatePattern(
        "PHONE",
        re.compile(r"(?<![\w.,])(?:\+|00)\d(?:[ ./()-]{0,2}\d){6,14}(?!\d)"),
        _is_phone,
    ),
    PrivatePattern(
        "PHONE",
        re.compile(r"(?<![\w.,])\(?\d{2,5}\)?[ ./-]\d{2,4}(?:[ ./-]\d{2,4}){1,3}(?![\d:])"),
        _is_phone,
    ),
    PrivatePattern("NUMBER", re.compile(r"(?<![\w.,])\d{7,}(?![\w.,]?\d)")),
    PrivatePattern(
        "ADDRESS",
        re.compile(rf"\b\d{{1,5}}[A-Za-z]?,? (?:{_NAME} ){{1,3}}{_STREET}\b\.?"),
    ),
    PrivatePattern(
        "ADDRESS",
        re.compile(
            r"\b[A-Z\u00c4\u00d6\u00dc][\w\u00df-]*(?:stra\u00dfe|strasse|str\.|weg|platz|gasse|allee|gate|gata|v\u00e4gen)"
            r" \d{1,4}\s?[a-zA-Z]?\b"
        ),
    ),
    PrivatePattern("NAME", re.compile(rf"\b{_TITLES} (?P<part>{_NAME}(?: {_NAME}){{0,2}})")),
    PrivatePattern("NAME", re.compile(rf"\b{_SAID} (?P<part>{_NAME}(?: {_NAME}){{0,2}})")),
    PrivatePattern("NAME", re.compile(rf"\b{_NAMES.pattern}")),
)
"""What is masked, in this order: what one has taken no other sees."""

_KEYS = (
    (
        "NAME",
        re.compile(
            r"(?:^|_)(?:first|last|full|given|family|sur|user|customer|client|contact|guest|passenger|patient|recipient|sender|owner|holder|person|employee)_?name$"
        ),
    ),
    ("EMAIL", re.compile(r"(?:^|_)e?mail(?:_address)?$")),
    ("PHONE", re.compile(r"(?:^|_)(?:phone|mobile|telephone)(?:_?number)?$")),
    (
        "ADDRESS",
        re.compile(r"(?:^|_)(?:street|home|postal|shipping|billing|delivery)_?(?:address)?$"),
    ),
    ("KEY", re.compile(r"(?:^|_)(?:api_?key|password|secret|access_?token|auth_?token)$")),
)
"""Arguments whose values are masked whatever they look like."""


class Masker:
    """The pseudonyms of one row. Example: Masker().mask("Write to ann@example.org")"""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """How many values of each kind were masked."""
        self._names: dict[str, str] = {}
        self._same: dict[str, str] = {}
        self._known: re.Pattern[str] | None = None

    def learn(self, value: Any) -> None:
        """Take note of values that are private by their argument's name; before any text."""
        if isinstance(value, dict):
            for key, part in value.items():
                word = re.sub(r"(?<=[a-z])(?=[A-Z])|[- ]", "_", str(key)).lower()
                kind = next((kind for kind, pattern in _KEYS if pattern.search(word)), "")
                if kind and isinstance(part, str) and len(part.strip()) > 1:
                    self._name(kind, part.strip())
                self.learn(part)
        elif isinstance(value, list):
            for part in value:
                self.learn(part)

    def mask(self, value: Any) -> Any:
        """The value with what is private in it replaced; keys of objects stay."""
        if isinstance(value, str):
            return self._mask_text(value)
        if isinstance(value, dict):
            return {key: self.mask(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self.mask(part) for part in value]
        if isinstance(value, int) and not isinstance(value, bool):
            return self._mask_number(value)
        return value

    def _mask_text(self, text: str) -> str:
        if self._names:
            if self._known is None:
                longest = sorted(self._names, key=len, reverse=True)
                known = "|".join(map(re.escape, longest))
                self._known = re.compile(rf"(?<!\w)(?:{known})(?!\w)")
            text = self._known.sub(lambda found: self._names[found[0]], text)
        for each in PATTERNS:
            text = each.pattern.sub(partial(self._replace, each), text)
        return text

    def _replace(self, pattern: PrivatePattern, found: re.Match[str]) -> str:
        named = "part" in found.re.groupindex
        part = found["part"] if named else found[0]
        if not pattern.holds(part) or _MASKED.fullmatch(part):
            return found[0]
        name = self._name(pattern.kind, part.strip())
        if not named:
            return name
        start = found.start("part") - found.start()
        return found[0][:start] + name + found[0][start + len(part) :]

    def _mask_number(self, value: int) -> int:
        """A number that the text has masked, or that is as long, as another number."""
        digits = str(abs(value))
        known = next((name for text, name in self._names.items() if _digits(text) == digits), "")
        if not known and len(digits) < 7:
            return value
        name = known or self._name("NUMBER", digits)
        return int("1" + "0" * (len(digits) - 1)) + int(name.rpartition("_")[2])

    def _name(self, kind: str, text: str) -> str:
        if text not in self._names:
            is_number = kind in ("PHONE", "CARD", "IBAN", "NUMBER", "ID")
            same = re.sub(r"\W", "", text) if is_number else text.casefold()
            if same not in self._same:
                self.counts[kind] += 1
                self._same[same] = f"{kind}_{self.counts[kind]}"
            self._names[text] = self._same[same]
            self._known = None
        return self._names[text]


_MASKED = re.compile(r"[A-Z]+_\d+")

"""Names, addresses, numbers and keys of a row, put out of it on the way in.

Patterns, not a model: what they find is the same on every machine. A value gets one pseudonym
within a row, in its text, its calls and its tools (`EMAIL_1`); a number in a call stays a number.
Dates, times and amounts are kept: a request is about them. Time grows with the row's length.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from factory.domain.jsontext import walk


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


def _is_epoch(text: str) -> bool:
    """Seconds or milliseconds since 1970, of the years 2001 to 2033."""
    return len(text) in (10, 13) and text[0] == "1"


def _is_secret(text: str) -> bool:
    """A long text of letters and digits mixed, as nobody's word is."""
    return sum(c.isdigit() for c in text) >= 4 and sum(c.isalpha() for c in text) >= 4


def _is_ipv6(text: str) -> bool:
    """With a digit, as no word of a program has (`a::b`)."""
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return len(text) >= 4 and any(c.isdigit() for c in text)


def _is_told(text: str) -> bool:
    """A value of a key or password, not what is said of one, and no place for one."""
    word = re.match(r"[^\W\d_]*+(?![\w-])", text)
    is_word = word is not None and word[0].casefold() in _PLAIN
    return not is_word and not _PLACE.match(text)


def _is_said(text: str) -> bool:
    """The same behind `is` and a colon, where a sentence may go on."""
    return _is_told(text) and not re.fullmatch(r"[a-z]+(?:ed|ing|able)", text)


_PLAIN = frozenset(
    "a an the this that your my his her their our its it is are was not no none null nil true "
    "false yes string str text int integer number boolean bool object array any char required "
    "optional empty missing blank wrong incorrect correct invalid valid hidden forgotten lost too "
    "very must should may can for of to in on and or with if when as at be user value field key "
    "password secret token min max minimum maximum length what which where how please enter i we "
    "you they strong weak secure safe default same different unknown new old known set reset here "
    "below above something somewhere case sensitive long short stolen broken out down never always "
    "only also good bad okay fine gone ready public private once again between from by".split()
)
"""Words that stand behind `password:` or `password is` and are none."""
_PLACE = re.compile(
    r"[A-Z]+_\d+(?!\w)|<[^<>]*+>|\{[^{}]*+\}|\{\{|\[[^\[\]]*+\]|\$[A-Z_]+$|\$[({]|\*+$|\u2026|\.\.\."
)
"""A pseudonym, or where a value is to be put."""
_START = r"(?:(?<![A-Za-z0-9])|(?<=[a-z])(?=[A-Z]))"
_PASS = r"(?:pass(?:word|wd|phrase|code)|pwd)"
_LABEL = (
    rf"{_START}(?i:{_PASS}|(?:api|private|access|secret)[ _-]?key"
    r"|secret(?:[ _-]?access)?(?:[ _-]?key)?|(?:[a-z]{2,9}[ _-]?)?token|pin)"
)
"""What a key or password is called, also as the last part of a name (`DB_PASSWORD`)."""
_GOES_ON = r"(?=\s*+(?:$|[.,;!?\"')}\]\n]|(?:and|but|then|please|so|for|to|on|at|in|user)\b))"
_DATE = re.compile(r"\d{4}[-./ ]\d{1,2}[-./ ]\d{1,2}|\d{1,2}[-./ ]\d{1,2}[-./ ]\d{4}")
_NAME = r"[A-Z\u00c0-\u00de][\w'\u2019-]+"
_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Square|Sq|Way|Place)"
)
_TITLES = r"(?:Mr|Mrs|Ms|Miss|Dr|Prof|Sir|Herr|Frau|Madame|Monsieur|Se\u00f1ora?)\.?"
_SAID = r"(?:[Mm]y name is|[Nn]ame is|[Nn]ame:|[Mm]ein Name ist|[Dd]ear|[Rr]egards,|I am called)"
_WORDS = ("Carol", "Charlotte", "Christian", "Frank", "Grace", "Jack", "Mark", "Ruth", "Victoria")
"""Given names that are words or places too: names where a family name follows."""
_COMMON = {
    *map(str.casefold, _WORDS),
    *("april", "art", "august", "bill", "black", "brown", "day", "faith", "green", "hope", "joy"),
    *(
        "june",
        "king",
        "long",
        "may",
        "pat",
        "price",
        "rich",
        "rose",
        "sue",
        "white",
        "will",
        "young",
    ),
}
"""Values that are looked for as they are written alone."""
_CURRENCY = (
    r"(?:[$\u20ac\u00a3\u00a5]|(?:USD|EUR|GBP|JPY|CHF|NOK|SEK|DKK|INR|CNY|dollars?|euros?|pounds?|yen|"
    r"rupees?|yuan|kroner|kronor|kr|francs?)(?!\w))"
)
_AMOUNT = re.compile(
    rf"(?<!\w){_CURRENCY}\s?(?P<after>\d{{7,}}+)|(?<![\d.,])(?P<before>\d{{7,}}+)\s?{_CURRENCY}"
)
_NAMES = re.compile(
    rf"(?:(?:{'|'.join(_WORDS)})(?=\s{_NAME})|Adam|Ahmed|Aisha|Alan|Alexander|Alice|Amy|Andrea|Andrew|Anna|Anne|Anthony|Barbara|Ben|Brian|"
    "Carlos|Charles|Chloe|Chris|Christine|Claire|Daniel|David|Deborah|Diana|"
    "Edward|Elena|Elizabeth|Ella|Emily|Emma|Eric|Erik|Eva|Fatima|George|Hannah|Hans|Helen|"
    "Henry|Ingrid|Isabella|Jacob|James|Jane|Jason|Jennifer|Jessica|Johan|John|Jonathan|Jose|Joseph|"
    "Joshua|Juan|Julia|Karen|Karl|Katherine|Kevin|Laura|Lars|Lena|Linda|Lisa|Lucas|Lucy|Luis|Maria|"
    "Marie|Martin|Mary|Matthew|Michael|Mohammed|Natalie|Nicholas|Nicole|Oliver|Olivia|Patricia|"
    "Patrick|Paul|Peter|Philip|Rachel|Rebecca|Richard|Robert|Ryan|Samuel|Sandra|Sarah|Simon|Sophia|"
    "Sophie|Stephen|Steven|Susan|Thomas|Timothy|Ursula|William|Wei|Yuki|Zoe)"
    rf"(?:\s{_NAME})?(?!\w)"
)

PATTERNS: tuple[PrivatePattern, ...] = (
    PrivatePattern(
        "KEY",
        re.compile(
            r"-----BEGIN [A-Z ]*KEY-----(?:(?!-----BEGIN ).)*?-----END [A-Z ]*KEY-----", re.DOTALL
        ),
    ),
    PrivatePattern("KEY", re.compile(r"(?<![\w-])eyJ[\w-]{8,}+\.[\w-]{8,}+\.[\w-]*+")),
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
            r"(?i:\bauthorization\\?[\"']?\s{0,3}[:=]\s{0,3}\\?[\"']?(?:bearer|basic|token|digest)\s{1,3})"
            r"(?P<part>[^\s\"',;\\]{6,})"
        ),
        _is_told,
    ),
    PrivatePattern("KEY", re.compile(r"\b[Bb]earer\s{1,3}(?P<part>[\w.~+/=-]{16,})"), _is_told),
    PrivatePattern(
        "KEY",
        re.compile(
            _LABEL + r"\\?[\"']?\s{0,3}[:=]\s{0,3}(?P<quote>\\?[\"'])"
            r"(?P<part>(?>(?:(?!(?P=quote))[^\n]){2,}))(?P=quote)"
        ),
        _is_told,
    ),
    PrivatePattern(
        "KEY",
        re.compile(_LABEL + r"\s?=\s?(?P<part>(?>(?:[^\s\"',;&]|&(?!\w{1,40}=)){3,}))"),
        _is_told,
    ),
    PrivatePattern(
        "KEY",
        re.compile(
            rf"{_START}(?i:{_PASS}(?:\s{{1,3}}is(?:\s{{0,3}}:)?|\s{{0,3}}:)\s{{1,3}})"
            rf"(?P<part>(?>(?:[^\s\"',;.?]|[.?](?![\s\"',;.?]|$)){{4,64}})){_GOES_ON}"
        ),
        _is_said,
    ),
    PrivatePattern(
        "KEY",
        re.compile(r"://[^\s/:@\"']{0,64}:(?P<part>[^\s/@\"'<>{}]{1,200}+)@"),
        _is_told,
    ),
    PrivatePattern(
        "KEY",
        re.compile(
            r"(?i:\b(?:api[ _-]?key|secret|pass(?:word|wd|code)|(?:access[ _-])?token|bearer"
            r"|authorization|pin)\b"
            r"(?:\s+is|\s*[:=])?\s*[\"']?)(?P<part>(?![:=])[^\s\"',;]{6,}|\d{4,})"
        ),
        lambda text: any(c.isdigit() for c in text) and _is_told(text),
    ),
    PrivatePattern(
        "EMAIL",
        re.compile(r"(?<![\w.+%-])(?!KEY_\d+@)[\w.+%-]++@[\w-]+(?:\\?\.[\w-]+)*\\?\.\w{2,}"),
    ),
    PrivatePattern("IP", re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")),
    PrivatePattern(
        "IP",
        re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{0,4}:){2,7}(?:[0-9a-fA-F]{1,4}|(?<=::))(?!\w)"),
        _is_ipv6,
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
        re.compile(
            r"(?<![\w.,])\(?\d{2,5}\)?[ ./-]\d{2,4}(?:[ ./-]\d{2,4}){1,3}(?![\d:])(?!\s?"
            + _CURRENCY
            + ")"
        ),
        _is_phone,
    ),
    PrivatePattern(
        "NUMBER", re.compile(r"(?<![\w.,])\d{7,}+(?![\w.,]?\d)"), lambda t: not _is_epoch(t)
    ),
    PrivatePattern(
        "ADDRESS",
        re.compile(rf"\b\d{{1,5}}[A-Za-z]?,? (?:{_NAME} ){{1,3}}{_STREET}\b\.?"),
    ),
    PrivatePattern(
        "ADDRESS",
        re.compile(
            r"(?<![\w-])[A-Z\u00c4\u00d6\u00dc][\w-]*(?:stra\u00dfe|strasse|str\.|weg|platz|gasse|allee|gate|gata|v\u00e4gen)"
            r" \d{1,4}(?:\s?[a-zA-Z])?\b"
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
        re.compile(
            r"^address$|(?:^|_)(?:street|home|work|office|postal|mailing|shipping|billing|delivery|customer|user|contact|guest)_?address$"
            r"|(?:^|_)street$"
        ),
    ),
    (
        "KEY",
        re.compile(
            r"(?:^|_)(?:api_?key|password|passwd|passcode|pin(?:_?code)?|secret|access_?token|auth_?token)$"
        ),
    ),
)
"""Arguments whose values are masked whatever they look like."""
_AMOUNT_KEY = re.compile(r"(?:^|_)(?:amount|price|cost|total|budget|salary|revenue|income)$")
"""Arguments whose numbers are kept."""
_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keys of a document whose objects have names of their own."""
_VALUES = ("default", "enum", "const", "example", "examples")
_FIXED = (
    *("name", "tool_name", "api_name", "category_name", "standardized_name", "type", "format"),
    *("required", "$ref", "$schema", "$id", "$anchor", "$dynamicRef", "$dynamicAnchor"),
)
"""Keys of a document whose words are not anybody's texts."""
_CLASS = re.compile(r"(\[[^\]]*+\])")
"""A set of characters in a `pattern`: it is no value, however it looks."""
_NUMBERS = ("PHONE", "CARD", "NUMBER", "ID")
_LONG = 7
"""Digits of a number that is masked, whatever it is."""
_MAX_WORDS = 16
"""Words of a value that is looked for inside of texts."""
_WORD = re.compile(r"\w+")
_MASKED = re.compile(r"[A-Z]+_\d+")


@dataclass(slots=True)
class _Pseudonym:
    """A value that has a pseudonym, by its letters and digits alone."""

    name: str
    is_number: bool
    edges: tuple[str, str]
    """What stands before its first word and behind its last."""
    forms: set[str] = field(default_factory=set)

    def is_in(self, text: str) -> bool:
        """Whether a text of the same letters is this value, in any case, or spaced otherwise."""
        form = " ".join(text.split())
        if form in self.forms or form.casefold() in self.forms:
            return True
        is_spaced = self.is_number and len(_digits(text)) >= _LONG
        return is_spaced and re.fullmatch(r"[\w ./()-]+", text) is not None


def _snake(key: object) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[- ]", "_", str(key)).lower()


class Masker:
    """The pseudonyms of one row. Example: Masker().mask("Write to ann@example.org")"""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """How many values of each kind were masked."""
        self._names: dict[str, str] = {}
        self._same: dict[str, str] = {}
        self._known: dict[str, _Pseudonym] = {}
        self._longest = 0
        self._numbers: dict[str, str] = {}
        self._kept: set[str] = set()

    def keep(self, document: Any) -> None:
        """Take note of the choices of a tool's document; before anything else.

        They are no names and addresses, and not private by an argument's name.
        """
        for _, part in walk(document):
            choices = part.get("enum") if isinstance(part, dict) else None
            if isinstance(choices, list):
                kept = (c for c in choices if isinstance(c, str | int) and not isinstance(c, bool))
                self._kept.update(str(c).strip().removeprefix("-") for c in kept)

    def learn(self, value: Any) -> None:
        """Take note of values that are private by their argument's name; before any text."""
        if isinstance(value, dict):
            for key, part in value.items():
                word = _snake(key)
                kind = next((kind for kind, pattern in _KEYS if pattern.search(word)), "")
                for each in (part if isinstance(part, list) else [part]) if kind else ():
                    self._learn_private(kind, each)
                self.learn(part)
        elif isinstance(value, list):
            for part in value:
                self.learn(part)

    def _learn_private(self, kind: str, value: Any) -> None:
        """A text, or a key or phone number of four digits and more."""
        is_number = isinstance(value, int) and not isinstance(value, bool)
        text = str(abs(value)) if is_number else value.strip() if isinstance(value, str) else ""
        if len(text) < 2 or text in self._kept or _MASKED.fullmatch(text):
            return
        if not is_number:
            self._name(kind, text)
        elif kind in ("KEY", "PHONE") and len(text) >= 4:
            self._numbers[text] = self._name(kind, text)

    def mask(self, value: Any, *, below: bool = False) -> Any:
        """The value with what is private in it replaced; keys are masked `below` the first level.

        Those of the first level are names of arguments.
        """
        if isinstance(value, str):
            return self._mask_text(value)
        if isinstance(value, dict):
            made: dict[str, Any] = {}
            for key, part in value.items():
                name = self._mask_text(key) if below else key
                while name in made:
                    name += "_"
                is_kept = isinstance(part, int) and _AMOUNT_KEY.search(_snake(key))
                made[name] = part if is_kept else self.mask(part, below=True)
            return made
        if isinstance(value, list):
            return [self.mask(part, below=True) for part in value]
        if isinstance(value, int) and not isinstance(value, bool):
            return self._mask_number(value)
        return value

    def mask_document(self, value: Any) -> Any:
        """A tool's document with what it tells masked; names, types and keys stay."""
        if isinstance(value, str):
            return self._mask_text(value)
        if isinstance(value, list):
            return [self.mask_document(part) for part in value]
        if not isinstance(value, dict):
            return value
        made: dict[Any, Any] = {}
        for key, part in value.items():
            if key in _SCHEMAS and isinstance(part, dict):
                made[key] = {name: self.mask_document(each) for name, each in part.items()}
            elif key == "dependentRequired" or (key in _FIXED and not isinstance(part, dict)):
                made[key] = part
            elif key in _VALUES:
                made[key] = self._mask_told(part)
            elif key == "pattern" and isinstance(part, str):
                pieces = enumerate(_CLASS.split(part))
                made[key] = "".join(x if n % 2 else self._mask_text(x) for n, x in pieces)
            else:
                made[key] = self.mask_document(part)
        return made

    def _mask_told(self, value: Any) -> Any:
        """A value of a document: its numbers are another only where the row has masked them."""
        if isinstance(value, int):
            return self._mask_number(value) if str(abs(value)) in self._numbers else value
        if isinstance(value, dict):
            return {self._mask_text(key): self._mask_told(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self._mask_told(part) for part in value]
        return self.mask(value)

    def _mask_text(self, text: str) -> str:
        if name := self._names.get(text.strip()):
            return name
        for amount in _AMOUNT.finditer(text):
            self._kept.add(amount["after"] or amount["before"])
        if self._known:
            text = self._mask_known(text)
        for each in PATTERNS:
            text = each.pattern.sub(partial(self._replace, each), text)
        return text

    def _mask_known(self, text: str) -> str:
        """The text with known values replaced, at each word the longest one."""
        words, parts = list(_WORD.finditer(text)), list[str]()
        at = done = 0
        while at < len(words):
            known, count = self._find_known(text, words[at : at + _MAX_WORDS])
            if known is None:
                at += 1
                continue
            start, end = words[at].start(), words[at + count - 1].end()
            before, behind = known.edges
            start -= len(before) if text.endswith(before, done, start) else 0
            end += len(behind) if text.startswith(behind, end) else 0
            parts += (text[done:start], known.name)
            done, at = end, at + count
        return "".join((*parts, text[done:]))

    def _find_known(self, text: str, words: list[re.Match[str]]) -> tuple[_Pseudonym | None, int]:
        """The longest known value that begins at the first of some words, and its words."""
        same, best, size = "", None, 0
        end = words[0].start()
        for count, word in enumerate(words, 1):
            same += word[0].casefold()
            if len(same) > self._longest or word.start() - end > 3:
                break
            end = word.end()
            known = self._known.get(same)
            if known is not None and known.is_in(text[words[0].start() : end]):
                best, size = known, count
        return best, size

    def _replace(self, pattern: PrivatePattern, found: re.Match[str]) -> str:
        named = "part" in found.re.groupindex
        part = found["part"] if named else found[0]
        is_kept = pattern.kind in ("NAME", "ADDRESS", "NUMBER") and part.strip() in self._kept
        if is_kept or not pattern.holds(part) or _MASKED.fullmatch(part):
            return found[0]
        name = self._name(pattern.kind, part.strip())
        if not named:
            return name
        start = found.start("part") - found.start()
        return found[0][:start] + name + found[0][start + len(part) :]

    def _mask_number(self, value: int) -> int:
        """A number that is masked elsewhere, or as long, as another one of its sign and length."""
        digits = str(abs(value))
        name = self._numbers.get(digits)
        if name is None and (len(digits) < _LONG or digits in self._kept or _is_epoch(digits)):
            return value
        name = name or self._name("NUMBER", digits)
        made = int("1" + "0" * (len(digits) - 1)) + int(name.rpartition("_")[2])
        return made if value > 0 else -made

    def _name(self, kind: str, text: str) -> str:
        if text in self._names:
            return self._names[text]
        is_number = kind in (*_NUMBERS, "IBAN")
        same = re.sub(r"\W", "", text) if is_number else text.casefold()
        if same not in self._same:
            self.counts[kind] += 1
            self._same[same] = f"{kind}_{self.counts[kind]}"
        name = self._names[text] = self._same[same]
        if kind in _NUMBERS and len(digits := _digits(text)) >= _LONG:
            self._numbers.setdefault(digits, name)
        words = list(_WORD.finditer(text))
        key = "".join(word[0] for word in words).casefold()
        if len(key) > 1:
            start, end = words[0].start(), words[-1].end()
            edges = (text[:start], text[end:])
            known = self._known.setdefault(key, _Pseudonym(name, is_number, edges))
            form = " ".join(text[start:end].split())
            known.forms |= {form} if key in _COMMON else {form, form.casefold()}
            self._longest = max(self._longest, len(key))
        return name

"""Words of a text, and the signs among them that change what it asks.

Two requests are the same when they ask for the same, whatever their case, punctuation and white
space. So signs stay that mean something: `-5` is not `5`, C++ not C#, 5 % not $5, 👍 not 👎. Of
nearly equal texts, `Sense` holds what must be equal all the same: numbers with sign and unit,
operators, emoji and negation, in their order.

Languages that write no spaces between words (Chinese, Japanese, Thai, …) are taken by characters:
each is a word of its own here.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Letters of scripts without spaces: Thai to Burmese, Khmer, kana, Han."""
_ONE = re.compile(rf"([{_UNSPACED}])")
_BETWEEN = re.compile(rf"(?<=[{_UNSPACED}]) | (?=[{_UNSPACED}])")

_KEPT = frozenset("#%&*/@\\‰‱°")
"""Punctuation that stands for something."""
_QUOTES = frozenset("`´¨¸˜")
_JOINERS = frozenset("\u200c\u200d\u20e3\ufe0e\ufe0f\u00ad\u2060\ufeff")
_TONES = range(0x1F3FB, 0x1F400)

_FACES = {")": "🙂", "(": "🙁", "d": "😀", "p": "😛", "o": "😮", "/": "😕"}
_FACE = re.compile(r"(?<!\S)[:;=]['-]?([()dpo/])(?![^\s.,!?])")
_DASH = re.compile(
    r"(?<![^\s(\[{<>=:,;*/+|&\"'])[-\u2012-\u2015\u2212](?=[.,]?\d|\s?[$€£¥₹])"  # a sign before
    r"|(?<=\d)[-\u2212](?=\d)|(?<=\d)\s[-\u2212]\s(?=\d)"  # between two numbers
    r"|\u2212"
)
_POINT = re.compile(r"(?<=\d)[.,:](?=\d)|(?<![^\s(\[{+$€£¥₹\x02])\.(?=\d)")
_MINUS, _INNER = "\x02", {".": "\x03", ",": "\x04", ":": "\x05"}
"""What minus signs and signs inside numbers are while punctuation is taken out."""
_MARKERS = frozenset((_MINUS, *_INNER.values()))
_BACK = str.maketrans({_MINUS: " - ", **{code: sign for sign, code in _INNER.items()}})
_POWERS = str.maketrans(
    {each: f"^{unicodedata.normalize('NFKC', each)}" for each in "⁰¹²³⁴⁵⁶⁷⁸⁹"}
    | {each: f" {unicodedata.normalize('NFKC', each)}" for each in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"}
)
"""What would stick to the figures before it: 2² is not 22."""


class _Signs(dict[int, str]):
    """What becomes of each character, worked out when it is first met."""

    def __init__(self, *, plain: bool) -> None:
        super().__init__()
        self.plain = plain

    def __missing__(self, code: int) -> str:
        self[code] = kept = self._fold(chr(code))
        return kept

    def _fold(self, letter: str) -> str:
        if letter == "_" or (letter in _MARKERS and not self.plain):
            return letter
        if letter in _JOINERS or ord(letter) in _TONES:
            return ""
        kind = unicodedata.category(letter)
        if kind[0] in "LMN":
            return letter
        is_sign = letter in _KEPT or (kind[0] == "S" and letter not in _QUOTES)
        return f" {letter} " if is_sign and not self.plain else " "


_SIGNS, _PLAIN = _Signs(plain=False), _Signs(plain=True)


def fold_words(text: str) -> str:
    """The words of a text, case folded, one blank between them; its signs where it has no words.

    >>> fold_words("Book  a table: for FOUR!")
    'book a table for four'
    >>> fold_words("Add 5% to C++, set it to -1.5")
    'add 5 % to c + + set it to - 1.5'
    """
    folded = _normalise(text)
    marked = _FACE.sub(lambda face: _FACES[face[1]], folded)
    marked = _DASH.sub(_MINUS, marked.replace("!=", "≠"))
    marked = _POINT.sub(lambda point: _INNER[point[0]], marked)
    words = " ".join(marked.translate(_SIGNS).translate(_BACK).split())
    return words or " ".join(folded.split())


def fold_wording(text: str) -> str:
    """The words alone, without any sign.

    >>> fold_wording("Add 5% to C++, set it to -1.5")
    'add 5 to c set it to 1 5'
    """
    folded = _normalise(text)
    return " ".join(folded.translate(_PLAIN).split()) or " ".join(folded.split())


def _normalise(text: str) -> str:
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", text.translate(_POWERS)).casefold()
    return _ONE.sub(r" \1 ", folded)


def close_up(words: str) -> str:
    """Words without the blanks that unspaced letters have around them, to compare characters by.

    >>> close_up("打 开 3 号 灯 now")
    '打开3号灯now'
    """
    return words if words.isascii() else _BETWEEN.sub("", words)


# What must be equal in texts that are nearly equal ----------------------------------------------


class Sense(NamedTuple):
    """What texts that ask the same have in common.

    Example: of "-5 degrees, not 6": Sense(["-", "5", "not", "6"], ["-", "not"], ["degrees"], …).
    """

    marks: list[str]
    """Numbers, signs, emoji and negations (all as "not"), in the text's order."""
    signs: list[str]
    """The marks that are no numbers."""
    units: list[str]
    """The word after each number, politeness and the like aside."""
    heard: list[str]
    """All words, and units that are written together with their number."""


def read_sense(words: str) -> Sense:
    """The sense of a text that fold_words has made."""
    marks, signs, units = [], [], []
    for found in _MARK.finditer(words):
        if found["figures"]:
            marks.append(found["figures"])
            unit = found["stuck"] or found["unit"]
            if unit and unit not in _NO_UNITS:
                units.append(unit)
            continue
        marks.append("not" if found["negation"] else found[0])
        if found["negation"] or found["sign"]:
            signs.append(marks[-1])
    return Sense(marks, signs, units, [*words.split(), *units])


_NEGATIONS = """
no not never none nothing nobody neither nor without cannot dont doesnt didnt isnt arent wasnt wont
wouldnt cant couldnt shouldnt mustnt except unless
nicht nichts kein keine keinen keinem keiner keines nie niemals niemand ohne weder
ne pas jamais rien aucun aucune personne sans ni
nunca jamás sin nada nadie ningún ninguna ninguno tampoco
non mai senza niente nulla nessun nessuna nessuno né
não sem nenhum nenhuma ninguém
niet niets geen nooit zonder inte ej aldrig utan ingen inget inga ikke aldri uten ei
nie nigdy bez не нет ни без никогда değil yok не́
không đừng chưa chẳng tidak jangan bukan tanpa belum
नहीं मत बिना لا لم لن ليس ليست بدون غير לא אל בלי אין
""".split()
_UNSPACED_NEGATIONS = (
    *"不没沒別别勿未无無非莫",
    *("ない", "なし", "ません", "なく", "せず"),
    *("ไม่", "อย่า", "ห้าม", "មិន", "កុំ", "မ"),
)
_KOREAN_NEGATION = r"\S*(?:않|지 마|지마|말고|말아|없|못)\S*|안"
_NUMBERS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred
thousand million billion dozen half quarter once twice thrice double triple
first second third fourth fifth sixth seventh eighth ninth tenth
null eins ein eine einen zwei drei vier fünf sechs sieben acht neun zehn elf zwölf zwanzig dreißig
hundert tausend halb halbe
zéro un une deux trois quatre cinq sept huit neuf dix onze douze vingt trente cent mille
cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce veinte treinta cien mil
due tre quattro cinque sei sette otto nove dieci undici dodici venti trenta cento
um dois duas três quatro sete oito dez vinte
een twee drie vijf zes zeven negen tien twaalf twintig honderd duizend
один два три четыре пять шесть семь восемь девять десять сто тысяча
""".split()
_UNSPACED_NUMBERS = "〇零一二三四五六七八九十百千万亿億兩两半"
_NO_UNITS = frozenset(
    "please pls thanks thank thx and or but if when as then so in on at to for from of by with "
    "into per than is are was be the a an this that it today tonight tomorrow now bitte danke und "
    "s'il merci et por favor gracias y per grazie e obrigado".split()
)


def _choose(words: list[str]) -> str:
    return "|".join(
        sorted({re.escape(word) for word in words}, key=lambda word: (-len(word), word))
    )


_MARK = re.compile(
    r"(?<!\S)(?:"
    r"(?P<figures>\.?\d[\d.,:]*)(?P<stuck>[^\W\d]*)(?:(?=\S)\S*|(?= (?P<unit>[^\W\d]\S*))|)"
    rf"|(?P<negation>\S+n t|{_choose(_NEGATIONS)}|{_KOREAN_NEGATION}"
    rf"|{'|'.join(' '.join(each) for each in _UNSPACED_NEGATIONS)})(?!\S)"
    rf"|(?:{_choose(_NUMBERS)}|[{_UNSPACED_NUMBERS}]|(?P<sign>[^\w\s{_UNSPACED}]))(?!\S)"
    r"|\S*\d\S*)"
)
"""A number with its unit; a negation; a number in words or a sign; a word with figures in it."""

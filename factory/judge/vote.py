"""What n sampled answers agree on (algorithms §9.2, A5, A7, A8).

A sample's calls become a key; samples with the same key are one class; the largest class wins if
it has enough votes out of n. The strict key keeps everything that BFCL's scorer can tell apart
exactly, the loose key compares strings as that scorer does, but for signs that make another value:
12.50 is no vote for 1250. Nothing is coerced: "5" is no vote for 5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from math import ceil, log2
from typing import Literal, NamedTuple

from factory.domain.records import Tool, Vote
from factory.judge.keys import Key, emitted_text, make_key
from factory.judge.parsed import ParsedCalls
from factory.judge.reading import read_answers


def vote(
    samples: Sequence[ParsedCalls | str],
    tools: Sequence[Tool],
    *,
    minimum: int | None = None,
    plurality: bool = False,
    logprobs: Sequence[float] | None = None,
    barred: Collection[int] = (),
) -> Vote:
    """The vote of n samples; n stays the denominator whatever can be read of them.

    `tools` are the candidates, whose schemas say what values mean. `minimum` votes are needed (None
    or 0: a strict majority, ceil((n + 1) / 2)); with `plurality` most votes win, whatever their
    number (ToolDev as published). `logprobs` are mean token log-probabilities of the samples.
    `barred` samples have no vote, though they count in n: three of five that agree are three
    votes, not all of three, so that fewer voters never make an answer surer.
    """
    parsed = read_answers(samples)
    needed = 1 if plurality else minimum or ceil((len(parsed) + 1) / 2)
    by_name = {tool.name: tool for tool in tools}
    strict = _make_keys(parsed, by_name, loose=False)
    ballot = _Ballot.tally([key.text for key in strict], needed, barred)
    decided: Literal["strict", "loose", "none"] = "strict"
    if ballot.reason:
        keys = _make_keys(parsed, by_name, loose=True)
        loose = _Ballot.tally([key.text for key in keys], needed, barred)
        ballot, decided = (ballot, "none") if loose.reason else (loose, "loose")
    winner, reason = None, ballot.reason
    if not reason and ballot.leader == _NO_CALL:
        reason = "no_call_majority"
    elif not reason:
        scores = logprobs if logprobs is not None else [0.0] * len(parsed)
        members = [index for index, number in enumerate(ballot.classes) if number == 0]
        winner = _choose_representative(parsed, strict, members, scores)
    return Vote(
        num_samples=len(parsed),
        winner=winner,
        votes=ballot.sizes[0] if ballot.sizes else 0,
        margin=ballot.margin,
        entropy=ballot.entropy,
        decided_by=decided,
        reason=reason,
        classes=ballot.classes,
    )


_NO_CALL = "none"
_INVALID = "invalid:"


def _make_keys(
    parsed: Sequence[ParsedCalls], tools: Mapping[str, Tool], *, loose: bool
) -> list[Key]:
    """A key for each sample; samples that are one object (read_answers) are written once."""
    keys: dict[int, Key] = {}
    for sample in parsed:
        if id(sample) not in keys:
            keys[id(sample)] = _sample_key(sample, tools, loose=loose)
    return [keys[id(sample)] for sample in parsed]


def _sample_key(sample: ParsedCalls, tools: Mapping[str, Tool], *, loose: bool) -> Key:
    if sample.calls is None:
        return Key(_INVALID, False)
    if not sample.calls:
        return Key(_NO_CALL, True)
    key = make_key(sample.calls, tools, loose=loose)
    return key if not (sample.extra_keys or sample.foreign) else key._replace(exact=False)


class _Ballot(NamedTuple):
    """Samples counted by key. Classes are numbered by size, then by first member."""

    classes: tuple[int, ...]
    sizes: tuple[int, ...]
    leader: str
    """Key of the largest class."""
    reason: str
    """Why nothing won, empty where one readable class leads alone with enough votes."""

    @classmethod
    def tally(cls, keys: Sequence[str], needed: int, barred: Collection[int]) -> _Ballot:
        """Counts; each unreadable sample is a class of its own and cannot win."""
        own = [f"{key}{i}" if key == _INVALID else key for i, key in enumerate(keys)]
        counts = Counter(key for i, key in enumerate(own) if i not in barred)
        ranked = list(counts)
        if len(ranked) > 1:
            ranked.sort(key=lambda key: (-counts[key], key.startswith(_INVALID)))
        number = {key: rank for rank, key in enumerate(ranked)}
        sizes = tuple([counts[key] for key in ranked])
        leader = ranked[0] if ranked else _INVALID
        reason = _find_reason(sizes, leader, needed)
        classes = [-1 - i if i in barred else number[key] for i, key in enumerate(own)]
        return cls(tuple(classes), sizes, leader, reason)

    @property
    def margin(self) -> float:
        first, second, *_ = (*self.sizes, 0, 0)
        return (first - second) / len(self.classes) if self.classes else 0.0

    @property
    def entropy(self) -> float:
        if len(self.sizes) < 2:
            return 0.0
        total = sum(self.sizes)
        return -sum(size / total * log2(size / total) for size in self.sizes)


def _find_reason(sizes: Sequence[int], leader: str, needed: int) -> str:
    """Why nothing won. All samples different is no tie: nothing got a second vote."""
    tied = len(sizes) > 1 and sizes[0] == sizes[1]
    if sizes and sizes[0] >= needed and not tied and not leader.startswith(_INVALID):
        return ""
    return "vote_tie" if tied and (sizes[0] > 1 or sizes[0] >= needed) else "vote_below_min"


def _choose_representative(
    parsed: Sequence[ParsedCalls],
    strict: Sequence[Key],
    members: Sequence[int],
    logprobs: Sequence[float],
) -> int:
    """The class's answer (§9.2, 7), by content before position, so that order cannot matter.

    Samples whose values have the schema's own types come first (§9.2, 3).
    """
    exact = [index for index in members if strict[index].exact] or list(members)
    first = parsed[exact[0]]
    if all(parsed[i] is first for i in exact):
        return min(exact, key=lambda i: (-logprobs[i], i))
    texts = {i: emitted_text(parsed[i].calls or ()) for i in exact}
    keys = Counter(strict[i].text for i in exact)
    counts = Counter(texts.values())
    return min(
        exact,
        key=lambda i: (
            -keys[strict[i].text],
            -counts[texts[i]],
            -logprobs[i],
            texts[i],
            parsed[i].text,
            i,
        ),
    )

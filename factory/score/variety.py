"""Whether a model has collapsed: how varied its answers and its samples are beside earlier ones.

Words and tools are counted and the entropy of argument values taken over as many samples of both,
or over the answers to the same questions, so that a round's size decides nothing.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from factory.domain.canon import canonical_json
from factory.domain.records import Call, Candidate, Checkpoint, ItemScore
from factory.ledger.tables import VarietyRow
from factory.score.calls.kind import Benchmark
from factory.score.gate import Decision
from factory.workspace.recipe import CollapseSection

Figure = Literal["words", "tools", "values", "votes", "repeats"]
FEWEST: Mapping[Figure, float] = {
    "words": 50.0,
    "tools": 5.0,
    "values": 1.0,
    "votes": 0.2,
    "repeats": 0.0,
}
"""What the earlier figure must be at least to say something."""
FEWEST_SAMPLES = 20
"""Of both, for samples to be compared."""
WORD = re.compile(r"[^\W\d_]+")
TOLD: Mapping[Figure, str] = {
    "words": "different words",
    "tools": "different tools called",
    "values": "bits of argument values",
    "votes": "bits of votes",
    "repeats": "of the requests repeated",
}


class Variety(NamedTuple):
    """How varied some answers are."""

    words: float
    """Different words of the model's own texts."""
    tools: float
    """Different tools called, of those on offer."""
    values: float
    """Entropy of argument values, in bits."""


def answers_variety(benchmark: Benchmark, items: Sequence[ItemScore]) -> Variety:
    """Of a checkpoint's answers to a benchmark's questions."""
    offered = {item.id: {each["name"] for each in item.functions} for item in benchmark.items}
    calls = (call for item in items for call in item.calls or () if call.name in offered[item.item])
    return _measure((item.answer for item in items), calls)


def samples_variety(samples: Sequence[Candidate]) -> Variety:
    """Of tool documents and calls that a round accepted."""
    texts = (canonical_json(tool.document) for sample in samples for tool in sample.tools)
    return _measure(texts, (call for sample in samples for call in sample.calls))


def _measure(texts: Iterable[str], calls: Iterable[Call]) -> Variety:
    words = {word.casefold() for text in texts for word in WORD.findall(text)}
    calls = list(calls)
    values = Counter(canonical_json(v) for call in calls for v in call.arguments.values())
    return Variety(len(words), len({call.name for call in calls}), entropy(values))


def entropy(counts: Counter[str]) -> float:
    """In bits."""
    total = counts.total()
    return sum(n / total * math.log2(total / n) for n in counts.values())


def repeated(texts: Sequence[str]) -> float:
    """Share of the requests that say what an earlier one does but for numbers and punctuation."""
    said = {" ".join(WORD.findall(text.casefold())) for text in texts}
    return 1 - len(said) / len(texts) if texts else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One figure beside an earlier one."""

    source: Literal["answers", "samples"]
    figure: Figure
    value: float
    first: float
    """The earlier one."""
    since: str
    """Whose or when that is: `r1-1a2b3c`, `round 1`."""
    limit: float
    """The recipe's, of score.collapse; 0 is none."""

    @property
    def is_held(self) -> bool:
        """Whether the limit is passed: fewer than its share of the earlier figure, or of repeated
        requests more than it above the earlier share.
        """
        if not self.limit or self.first < FEWEST[self.figure]:
            return False
        if self.figure == "repeats":
            return self.value - self.first > self.limit
        return self.value < self.limit * self.first

    def row(self, number: int, made: Checkpoint) -> VarietyRow:
        """Its row of the table variety."""
        return {
            "round": number,
            "checkpoint_id": made.id,
            "source": self.source,
            "figure": self.figure,
            "value": self.value,
            "first": self.first,
            "since": self.since,
            "allowed": self.limit,
            "held": self.is_held,
        }

    @property
    def reason(self) -> str:
        """`its answers have 1 different tools called where r1-1a2b3c had 212 (…)`."""
        form = "{:.0%}" if self.figure == "repeats" else "{:.4g}"
        value, first = form.format(self.value), form.format(self.first)
        whose = "its answers have" if self.source == "answers" else "the round's samples have"
        return (
            f"{whose} {value} {TOLD[self.figure]} where {self.since} had {first} "
            f"(score.collapse.{self.figure} = {self.limit:g})"
        )


def compare_all(
    source: Literal["answers", "samples"],
    now: Mapping[Figure, float],
    first: Mapping[Figure, float],
    since: str,
    limits: CollapseSection,
) -> list[Comparison]:
    """The figures that both have."""
    return [
        Comparison(
            source=source, figure=name, value=value, first=first[name], since=since,
            limit=getattr(limits, name),
        )
        for name, value in now.items()
        if name in first
    ]  # fmt: skip


def hold_collapsed(decision: Decision, comparisons: Sequence[Comparison]) -> Decision:
    """The decision, unless a figure has fallen beyond its limit."""
    held = [each.reason for each in comparisons if each.is_held]
    if not held:
        return decision
    return Decision(False, "; ".join([f"collapsed: {', '.join(held)}", f"else: {decision.reason}"]))

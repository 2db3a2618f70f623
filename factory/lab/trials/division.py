"""What a comparison learns, asks, and keeps from both: tools that get their codes afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from factory.domain.canon import derive_seed, normalise_text
from factory.domain.failures import InputError
from factory.domain.records import Tool
from factory.lab.trials.labels import Labels
from factory.score.toolbench.data import ApiKey, ToolBench, ToolQuery, to_tool

Group: TypeAlias = Literal["seen", "document only", "held out"]
"""How a tool was learnt: by requests too, by its document alone, or not at all."""
GROUPS: tuple[Group, ...] = get_args(Group)
HELD_OUT = 1 / 3
"""Share of each split's requests that is asked, where the others are to be learnt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divided:
    """The tools and requests of a comparison, divided."""

    tools: tuple[Tool, ...]
    """Every document that is learnt, as a tool, in the benchmark's order."""
    held_out: tuple[Tool, ...]
    """Those in no fit and no training."""
    ids: Mapping[ApiKey, tuple[str, ...]]
    """Ids of the documents of each API."""
    learnt: tuple[ToolQuery, ...]
    """Requests that are trained on."""
    asked: ToolBench
    """The benchmark with the requests that are asked."""
    groups: Mapping[ApiKey, Group]
    """Of every API."""
    notes: tuple[str, ...] = ()
    """What was left out, and why."""

    def group_of(self, query: ToolQuery) -> Group | None:
        """Where all of a request's tools are; None where they differ."""
        found = {self.groups.get(key, "document only") for key in query.relevant}
        return found.pop() if len(found) == 1 else None

    def relevant_in(self, query: ToolQuery, group: Group) -> Set[ApiKey]:
        """A request's tools of one group."""
        keys = (key for key in query.relevant if key in self.groups)
        return frozenset(key for key in keys if self.groups[key] == group)


def divide(labels: Labels, held_out: float = HELD_OUT, held_out_tools: float = 0.0) -> Divided:
    """What is learnt and asked; hashes of ids and names decide, so it is always the same.

    Args:
        labels: whose requests to learn are learnt, but for those that are asked too or need a tool
            that is held out; the others are asked whole.
        held_out: share of each split that is asked where there are no requests to learn.
        held_out_tools: share of the APIs that is in no fit and no training; those of one service
            go together, as in ToolBench's splits of unseen tools.

    Raises InputError where nothing is left to learn or to ask.
    """
    bench = labels.bench
    tools = {
        key: tuple(tool for document in documents if (tool := to_tool(document)))
        for key, documents in bench.documents.items()
    }
    ids = {key: tuple(tool.id for tool in several) for key, several in tools.items() if several}
    asked, learnt, notes = bench, labels.learnt, []
    if learnt is None:
        asked, learnt = _ask_a_share(bench, held_out)
    away = _hold_out(list(ids), held_out_tools)
    texts = {normalise_text(query.text) for query in asked.queries}
    new = [query for query in learnt if normalise_text(query.text) not in texts]
    kept = tuple(query for query in new if not query.relevant & away)
    for count, cause in (
        (len(learnt) - len(new), "are asked in the same words"),
        (len(new) - len(kept), "need a tool that is held out"),
    ):
        if count:
            notes.append(f"{count} of {len(learnt)} requests to learn {cause} and are left out")
    for queries, verb in ((kept, "learn"), (asked.queries, "ask")):
        if not queries:
            raise InputError(
                f"no request is left to {verb}",
                remedy="give more labelled requests (--train, --test), or hold out fewer tools",
            )
    taught = {key for query in kept for key in query.relevant}
    groups: dict[ApiKey, Group] = {
        key: "held out" if key in away else "seen" if key in taught else "document only"
        for key in ids
    }
    held = {tool.id: tool for key in tools if key in away for tool in tools[key]}
    known = {t.id for key, several in tools.items() if key not in away for t in several}
    return Divided(
        tools=tuple(tool for key, several in tools.items() if key not in away for tool in several),
        held_out=tuple(tool for tool in held.values() if tool.id not in known),
        ids=ids,
        learnt=kept,
        asked=asked,
        groups=groups,
        notes=tuple(notes),
    )


def _ask_a_share(bench: ToolBench, share: float) -> tuple[ToolBench, tuple[ToolQuery, ...]]:
    """The benchmark with a share of each split's requests, and the other requests."""
    order: dict[str, list[ToolQuery]] = {}
    for query in sorted(bench.queries, key=lambda query: derive_seed("held out", query.id)):
        order.setdefault(query.split, []).append(query)
    kept = {
        query.id
        for queries in order.values()
        for query in queries[: max(1, round(share * len(queries)))]
    }
    asked = replace(bench, queries=tuple(q for q in bench.queries if q.id in kept))
    return asked, tuple(query for query in bench.queries if query.id not in kept)


def _hold_out(keys: Sequence[ApiKey], share: float) -> frozenset[ApiKey]:
    """A share of the APIs, service by service."""
    sizes = Counter(_service(key) for key in keys)
    wanted, chosen, count = round(share * len(keys)), set[str](), 0
    for service in sorted(sizes, key=lambda name: derive_seed("held-out tools", name)):
        if count >= wanted:
            break
        chosen.add(service)
        count += sizes[service]
    return frozenset(key for key in keys if _service(key) in chosen)


def _service(key: ApiKey) -> str:
    return key.tool or key.api

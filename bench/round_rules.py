"""The rules over a round at full size, and what their near-duplicate search finds.

The round is 10,000 candidates with their tools and calls against 100,000 earlier requests and 5,000
benchmark items, all of the home world, with edited copies of requests planted among them. The same
search over all pairs, on a slice, is the baseline and the truth.

    python -m bench.round_rules            # about five minutes
    python -m bench.round_rules 0.1        # a tenth of every size
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from bench.table import Cell, best_seconds, peak_rss_mib, print_machine, print_table
from factory.domain.canon import query_id, tool_id
from factory.domain.records import Call, Candidate, Past, PastQuery, Query, Tool
from factory.judge.rulebook import Rule, Rulebook
from factory.judge.sets import judge_round
from factory.judge.similarity import describe
from factory.judge.wording import fold_words
from factory.lab.home.world import FreshItem, fresh_item
from factory.score.calls.kind import Benchmark
from factory.score.items import Item
from factory.workspace.folder import Workspace, shipped_root

CANDIDATES, HISTORY, QUESTIONS = 10_000, 100_000, 5_000
SLICE = (1_000, 4_000)
"""Candidates and earlier requests that are also compared all with all."""
PLANTED = 0.05
"""Share of the candidates that are edited copies of earlier requests."""

Edit = Callable[[random.Random, str], str]


def swap_letters(rng: random.Random, text: str) -> str:
    place = rng.randrange(1, len(text) - 2)
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


def drop_word(rng: random.Random, text: str) -> str:
    words = text.split()
    del words[rng.randrange(len(words))]
    return " ".join(words)


def change_word(rng: random.Random, text: str) -> str:
    words = text.split()
    words[rng.randrange(len(words))] = rng.choice(("nearby", "today", "green", "seven"))
    return " ".join(words)


EDITS: dict[str, Edit] = {
    "case and punctuation": lambda _, text: f"  {text.upper()} !!",
    "two letters swapped": swap_letters,
    "'please' added": lambda _, text: f"Please: {text}",
    "one word dropped": drop_word,
    "one word changed": change_word,
    "every third word changed": lambda rng, text: " ".join(
        word[::-1] + "x" if place % 3 == 0 else word for place, word in enumerate(text.split())
    ),
}
"""Ways of copying a request, from the same words to another request."""


def make_candidate(item: FreshItem) -> Candidate:
    return Candidate(
        query=Query(id=query_id(item.query), text=item.query, source="bench"),
        tools=tuple(Tool(id=tool_id(each), document=each) for each in item.tools),
        calls=tuple(Call(**call) for call in item.calls),
    )


def plant(
    candidates: Sequence[Candidate], earlier: Sequence[str], rng: random.Random
) -> tuple[list[Candidate], dict[str, str]]:
    """The candidates, some of them now edited copies; query id of each copy to its edit."""
    planted: dict[str, str] = {}
    made = list(candidates)
    kinds = list(EDITS)
    for number, place in enumerate(sorted(rng.sample(range(len(made)), int(PLANTED * len(made))))):
        kind = kinds[number % len(kinds)]
        text = EDITS[kind](rng, rng.choice(earlier))
        made[place] = replace(made[place], query=Query(id=query_id(text), text=text, source=kind))
        planted[query_id(text)] = kind
    return made, planted


def find_duplicates(
    rulebook: Rulebook, candidates: Sequence[Candidate], past: Past
) -> dict[str, str]:
    """Query id to reason of the duplicate queries, by the rules."""
    names = ("round/duplicate_query", "round/near_duplicate_query")
    only = {name: rulebook.rules[name] for name in names}
    found = judge_round(only, candidates, past, [])
    return {query: verdicts[0].reason for query, verdicts in found.items()}


def find_by_all_pairs(candidates: Sequence[Candidate], past: Past, least: float) -> dict[str, str]:
    """The same by comparing every candidate with everything before it."""
    texts = [fold_words(query.text) for query in past.queries]
    texts += [fold_words(candidate.query.text) for candidate in candidates]
    values, ends = describe(texts).shingles
    sets = [
        frozenset(values[start:end].tolist())
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    found = {}
    for number, candidate in enumerate(candidates, len(past.queries)):
        mine = sets[number]
        for other in range(number):
            shared = len(mine & sets[other])
            if shared / (len(mine) + len(sets[other]) - shared) >= least:
                same = texts[number] in texts[:number]
                found[candidate.query.id] = f"{'' if same else 'near_'}duplicate_query"
                break
    return found


def run_slice(rulebook: Rulebook, items: Sequence[FreshItem], factor: float) -> None:
    """The search beside all pairs, on a slice."""
    num_new, num_old = (int(size * factor) for size in SLICE)
    rng = random.Random(7)
    past = make_past(items[num_new : num_new + num_old])
    candidates, planted = plant(
        [make_candidate(item) for item in items[:num_new]], [q.text for q in past.queries], rng
    )
    least = float(rulebook.rules["round/near_duplicate_query"].limits["min_jaccard"])  # type: ignore[arg-type]
    truth = find_by_all_pairs(candidates, past, least)
    ours = find_duplicates(rulebook, candidates, past)
    naive = best_seconds(lambda: find_by_all_pairs(candidates, past, least), 1)
    fast = best_seconds(lambda: find_duplicates(rulebook, candidates, past))
    print_table(
        f"duplicate queries, {num_new:,} candidates against {num_old:,} earlier ones",
        ("way", "seconds", "ratio", "found", "of all pairs' finds", "besides them"),
        [
            ("all pairs", naive, None, len(truth), None, None),
            ("rules", fast, naive / fast, len(ours), len(ours.keys() & truth.keys()),
             len(ours.keys() - truth.keys())),
        ],
    )  # fmt: skip
    print_table(
        "planted copies found on the slice, by edit",
        ("edit", "planted", "all pairs", "rules"),
        [
            (
                kind,
                sum(each == kind for each in planted.values()),
                sum(planted.get(query) == kind for query in truth),
                sum(planted.get(query) == kind for query in ours),
            )
            for kind in (*EDITS, None)
            if kind
        ],
    )


def make_past(items: Sequence[FreshItem]) -> Past:
    tools = {
        tool_id(each): Tool(id=tool_id(each), document=each) for i in items for each in i.tools
    }
    queries = [PastQuery(round_number=1, id=query_id(i.query), text=i.query) for i in items]
    return Past(queries=queries, tools=list(tools.values()))


def make_benchmark(items: Sequence[FreshItem]) -> Benchmark:
    questions = tuple(
        Item(id=str(number), category="all", query=item.query, functions=(), ground_truth=())
        for number, item in enumerate(items)
    )
    return Benchmark(stem="bench", title="", split="test", items=questions)


def run_whole(rulebook: Rulebook, items: Sequence[FreshItem], sizes: Sequence[int]) -> None:
    """Every rule at full size."""
    num_new, num_old, _ = sizes
    past = make_past(items[num_new : num_new + num_old])
    benchmark = make_benchmark(items[num_new + num_old :])
    rng = random.Random(11)
    candidates, planted = plant(
        [make_candidate(item) for item in items[:num_new]], [q.text for q in past.queries], rng
    )
    # Twenty of the benchmark's questions among the requests, as they are and reworded at the end.
    for number, item in enumerate(benchmark.items[:20]):
        text = item.query if number % 2 else f"{item.query} Thank you very much"
        candidates[-number - 1] = Candidate(
            query=Query(id=query_id(text), text=text, source="eval")
        )
    before = peak_rss_mib()
    rows: list[tuple[Cell, ...]] = []
    for name, rule in sorted(rulebook.rules.items()):
        if rule.sql:
            found: dict[str, object] = {}

            def run(rule: Rule = rule, found: dict[str, object] = found) -> None:
                only = {rule.id: rule}
                found.update(judge_round(only, candidates, past, [benchmark], stage=rule.stage))

            rows.append((name, best_seconds(run, 1), peak_rss_mib(), len(found)))
    seconds = best_seconds(lambda: judge_round(rulebook.rules, candidates, past, [benchmark]), 1)
    rows.append(("all of stage round", seconds, peak_rss_mib(), None))
    print_table(
        f"{num_new:,} candidates, {num_old:,} earlier, {len(past.tools):,} earlier tools, "
        f"{len(benchmark.items):,} benchmark items; {before:,.0f} MiB before",
        ("rule", "seconds", "peak MiB", "samples found"),
        rows,
    )
    ours = find_duplicates(rulebook, candidates, past)
    clean = len(candidates) - len(planted) - 20
    print_table(
        "planted copies found at full size, by edit",
        ("edit", "planted", "found"),
        [
            *(
                (
                    kind,
                    sum(each == kind for each in planted.values()),
                    sum(planted.get(query) == kind for query in ours),
                )
                for kind in EDITS
            ),
            ("not planted", clean, len(ours.keys() - planted.keys())),
        ],
    )


def main() -> None:
    factor = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    sizes = [int(size * factor) for size in (CANDIDATES, HISTORY, QUESTIONS)]
    print_machine("duckdb", "numpy", "pyarrow")
    rulebook = Rulebook.load(Workspace(shipped_root()))
    items = [fresh_item(number) for number in range(sum(sizes))]
    run_slice(rulebook, items, factor)
    run_whole(rulebook, items, sizes)


if __name__ == "__main__":
    main()

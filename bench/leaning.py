"""Drawing where the model is weak (`draw.weak`): requests looked at a second.

    python -m bench.leaning
    python -m bench.leaning --drawn 500

Fresh requests of the home world, four for each that a round draws, are compared with three rounds
of as many, a third of which failed. The other way is a dictionary of sums for each fresh request,
all of it sorted, as it was until December 2026; both find the same. Seconds are CPU time.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import islice

from bench.table import best_seconds, print_machine, print_table
from factory.domain.records import Query
from factory.lab.home.world import home_stream
from factory.ledger.history import Fate
from factory.round.leaning import LOOKED_AT, NEAREST, ROUNDS, weigh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drawn", type=int, default=2000)
    drawn = parser.parse_args().drawn
    stream = home_stream()
    fates = [
        Fate(query.id, query.text, float(number % 3 == 0), "vote_tie")
        for number, query in enumerate(islice(stream, ROUNDS * drawn))
    ]
    fresh = list(islice(stream, LOOKED_AT * drawn))
    if weigh_by_dictionaries(fresh, fates) != {
        p: x.weakness for p, x in weigh(fresh, fates).items()
    }:
        raise SystemExit("the two ways differ")
    plain, ours = (
        best_seconds(partial(way, fresh, fates), 1, time.process_time)
        for way in (weigh_by_dictionaries, weigh)
    )
    print_machine("numpy")
    print_table(
        f"{len(fresh)} fresh requests beside {len(fates)} earlier ones",
        ("way", "seconds", "requests/s", "ratio"),
        [
            ("dictionaries", plain, len(fresh) / plain, None),
            ("factory.round.leaning", ours, len(fresh) / ours, plain / ours),
        ],
    )


def weigh_by_dictionaries(fresh: Sequence[Query], fates: Sequence[Fate]) -> dict[int, float]:
    """Weakness by place, as factory.round.leaning gives it."""
    told = [_words(fate.text) for fate in fates]
    counts = Counter(word for words in told for word in words)
    most = max(1.0, 0.2 * len(told))
    worth = {w: math.log(1 + len(told) / n) for w, n in counts.items() if n <= most}
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, words in enumerate(told):
        for word in words & worth.keys():
            places[word].append(place)

    def length(words: frozenset[str]) -> float:
        return math.sqrt(sum(worth.get(word, 0.0) ** 2 for word in sorted(words))) or 1.0

    lengths = [length(words) for words in told]
    found = {}
    for number, query in enumerate(fresh):
        words = _words(query.text)
        shared: defaultdict[int, float] = defaultdict(float)
        for word in sorted(words):
            for place in places.get(word, ()):
                shared[place] += worth[word] ** 2
        own = length(words)
        likeness = {place: total / (own * lengths[place]) for place, total in shared.items()}
        nearest = sorted(likeness, key=lambda place: (-likeness[place], place))[:NEAREST]
        failed = sum(likeness[place] * fates[place].weakness for place in nearest)
        if failed:
            found[number] = failed / (sum(likeness[place] for place in nearest) + 0.5)
    return found


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W\d_]+", text.casefold()))


if __name__ == "__main__":
    main()

"""python -m bench.weaver: what Sinkhorn costs ToolWeaver's codes, and each level decoding.

One autoencoder is trained for the same number of epochs on the same points (bench.coders) without
Sinkhorn, with it on the last level, and on all: seconds, their ratio to those without, Sinkhorn's
own share, and what it is for: tools that want a code that another has, and how even numbers are
used. Then the same requests are searched in codes of one to four levels by a beam of five, with a
model of random weights and the shipped one's shape.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from bench.coders import make_points
from bench.retrieval import make_catalogue, make_prompts
from bench.table import Cell, best_seconds, print_machine, print_table
from factory.codes.base import Seen
from factory.codes.quantized import QuantizedCoder
from factory.workspace.recipe import QuantizedSection, vary

WAYS = ("off", "last", "all")
BEAMS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=5096)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--levels", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--queries", type=int, default=64)
    arguments = parser.parse_args()
    print_machine("torch", "transformers")
    compare_sinkhorn(arguments.points, arguments.size, arguments.levels, arguments.epochs)
    compare_levels(arguments.points, arguments.queries)


def compare_sinkhorn(num: int, size: int, levels: int, epochs: int) -> None:
    """One table: the same training without and with Sinkhorn."""
    points_NVd = make_points(num)[:, None].astype(np.float32)
    rows: list[list[Cell]] = []
    config = QuantizedSection(epochs=epochs, patience=0, batch_size=5096)
    for way in WAYS:
        coder = QuantizedCoder(levels=levels, size=size, config=vary(config, sinkhorn=way))
        coder.fit(Seen(points_NVd))
        codes_NP = coder.encode(points_NVd).codes_NP
        colliding = num - len(np.unique(codes_NP, axis=0))
        seconds, share = coder.cost.seconds, coder.cost.sinkhorn_seconds / coder.cost.seconds
        ratio = seconds / float(rows[0][1] or 1) if rows else None
        rows.append([way, seconds, ratio, 100 * share, colliding, bits_of(codes_NP[:, -1])])
    columns = ("Sinkhorn", "training s", "ratio", "its share, %", "collisions", "bits, last level")
    print_table(f"{num:,} tools, {levels} levels of {size}, {epochs} epochs", columns, rows)


def bits_of(numbers_N: np.ndarray) -> float:
    """Entropy of how often each number is used."""
    share = np.unique(numbers_N, return_counts=True)[1] / len(numbers_N)
    return float(-(share * np.log2(share)).sum())


def compare_levels(num_tools: int, num_queries: int) -> None:
    """One table: the same requests in codes of more and more levels."""
    from transformers import AutoModelForCausalLM

    from factory.engines.beam import BeamSearch

    rows: list[list[Cell]] = []
    for levels in (1, 2, 3, 4):
        size = max(2, round((4 * num_tools) ** (1 / levels)))
        with tempfile.TemporaryDirectory() as folder:
            catalogue = make_catalogue(Path(folder), num_tools, levels, size)
            model = AutoModelForCausalLM.from_pretrained(catalogue.folder).eval()
        search, prompts = BeamSearch(model, catalogue.trie), make_prompts(num_queries)
        seconds = best_seconds(lambda s=search, p=prompts: s.search(p, k=BEAMS, beams=BEAMS))  # type: ignore[misc]
        each = 1000 * seconds / num_queries
        rows.append([levels, size, each, each / float(rows[0][2] or 1) if rows else None])
    title = f"beam of {BEAMS}, {num_tools:,} tools, {num_queries} requests in batches"
    print_table(title, ("levels", "numbers", "ms a request", "ratio"), rows)


if __name__ == "__main__":
    main()

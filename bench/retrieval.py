"""python -m bench.retrieval: queries a second for the k most likely codes of a catalogue.

Compares factory.engines.beam with transformers' own beam search under `prefix_allowed_tokens_fn`,
in batches and one query at a time with a trie of dicts, which is how ToolGen retrieves. All rank
by the same sum of log-probabilities; the share of queries with the same codes in the same order is
a column. The model has random weights and the shipped model's shape, with code tokens added.
Queries are asked as they are, then behind `--shared` tokens that all begin with: the chat templates
of Qwen and Llama open with a system message of about 25.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bench.table import best_seconds, print_machine, print_table
from factory.codes.spelling import code_tokens
from factory.codes.trie import Trie
from factory.engines.child import CHILD_ENV
from factory.workspace.folder import shipped_root

Prompts = Sequence[Sequence[int]]
Codes = list[list[tuple[int, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """A model folder with code tokens, and the codes of its tools."""

    folder: Path
    """The model: random weights, tokenizer, chat template."""
    trie: Trie
    """Codes of all tools."""
    names: dict[int, str]
    """Text of each code token."""
    levels: list[list[int]]
    """Ids of the code tokens of each level."""


def make_catalogue(folder: Path, num_tools: int, levels: int = 3, size: int = 512) -> Catalogue:
    """Write a random model of the shipped one's shape that can name `num_tools` tools."""
    import torch
    from tokenizers import AddedToken
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    shipped = shipped_root() / "rounds" / "seed"
    tokenizer = AutoTokenizer.from_pretrained(shipped)
    names = [
        [f"<{token[1]}{token[2:-1]}_>" for token in level] for level in code_tokens(levels, size)
    ]
    tokens = [
        AddedToken(name, special=False, normalized=False) for level in names for name in level
    ]
    tokenizer.add_tokens(tokens)
    config = AutoConfig.from_pretrained(shipped)
    config.vocab_size, config.initializer_range, config.dtype = len(tokenizer), 0.1, "float32"
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    level_ids = [tokenizer.convert_tokens_to_ids(level) for level in names]
    trie = make_trie(level_ids, num_tools, int(tokenizer.eos_token_id))
    texts = {
        token: name
        for level, tokens in zip(names, level_ids, strict=True)
        for name, token in zip(level, tokens, strict=True)
    }
    return Catalogue(folder=folder, trie=trie, names=texts, levels=level_ids)


def make_trie(levels: Sequence[Sequence[int]], num_tools: int, end: int) -> Trie:
    """Random codes of so many tools, a token of each level."""
    rng, size = np.random.default_rng(0), len(levels[0])
    numbers_NL = np.unique(rng.integers(0, size, (2 * num_tools, len(levels))), axis=0)
    numbers_NL = rng.permutation(numbers_NL)[:num_tools]
    codes_NL = np.array(levels)[np.arange(len(levels)), numbers_NL]
    return Trie.build(codes_NL, [f"t_{row:012x}" for row in range(num_tools)], end)


def make_prompts(num: int, vocabulary: int = 2000, num_shared: int = 0) -> list[list[int]]:
    """Prompts of 30 to 50 tokens, as home queries have, behind some that all share."""
    rng = np.random.default_rng(1)
    start = list(range(10, 10 + num_shared))
    own = [rng.integers(10, vocabulary, rng.integers(30, 51)).tolist() for _ in range(num)]
    return [start + prompt for prompt in own]


def dict_trie(trie: Trie) -> dict[int, Any]:
    """The same codes as nested dicts, each closed by the end token."""
    root: dict[int, Any] = {}
    for code, _ in trie.codes():
        node = root
        for token in code:
            node = node.setdefault(token, {})
        node[trie.end] = {}
    return root


def allowed_by_dicts(trie: Trie) -> Callable[[Sequence[int]], list[int]]:
    """What may follow a prefix, by a walk through dicts."""
    root = dict_trie(trie)

    def allowed(prefix: Sequence[int]) -> list[int]:
        node = root
        for token in prefix:
            node = node.get(token, {})
        return list(node) or [trie.end]

    return allowed


def search_with_transformers(
    model: Any, trie: Trie, prompts: Prompts, beams: int, batch: int, allowed: Callable[..., Any]
) -> Codes:
    """`generate` with as many beams as codes wanted, in batches of left-padded prompts."""
    import torch

    found: Codes = []
    for start in range(0, len(prompts), batch):
        chunk = prompts[start : start + batch]
        width = max(map(len, chunk))
        ids = torch.tensor([[0] * (width - len(prompt)) + [*prompt] for prompt in chunk])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in chunk])
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            num_beams=beams,
            num_return_sequences=beams,
            do_sample=False,
            length_penalty=0.0,
            max_new_tokens=16,
            eos_token_id=trie.end,
            pad_token_id=trie.end,
            prefix_allowed_tokens_fn=lambda _, row, width=width: allowed(row[width:].tolist()),
        )
        rows = [tuple(row[: row.index(trie.end)]) for row in output[:, width:].tolist()]
        found += [rows[at : at + beams] for at in range(0, len(rows), beams)]
    return found


def same(ours: Codes, theirs: Codes) -> float:
    """Share of queries with equal rankings, in percent."""
    pairs = list(zip(ours, theirs, strict=False))
    return 100 * sum(a == b for a, b in pairs) / len(pairs)


def compare(model: Any, catalogue: Catalogue, prompts: Prompts, beams: int, batch: int) -> None:
    """One table: the same queries by each way."""
    from factory.engines.beam import BeamSearch

    trie = catalogue.trie
    search = BeamSearch(model, trie)
    allowed_flat = lambda prefix: trie.allowed(trie.walk(prefix) or 0).tolist()  # noqa: E731
    kept: dict[str, Codes] = {}

    def ours() -> None:
        rankings = search.search(prompts, k=beams, beams=beams)
        kept["ours"] = [[code.code for code in ranking.codes] for ranking in rankings]

    def batched() -> None:
        kept["batched"] = search_with_transformers(model, trie, prompts, beams, batch, allowed_flat)

    few = prompts[: max(1, len(prompts) // 4)]
    allowed = allowed_by_dicts(trie)

    def one_by_one() -> None:
        kept["one"] = search_with_transformers(model, trie, few, beams, 1, allowed)

    ours()
    rate = len(prompts) / best_seconds(ours, 3)
    rate_batched = len(prompts) / best_seconds(batched, 2)
    rate_one = len(few) / best_seconds(one_by_one, 1)
    print_table(
        f"top {beams} of {len(trie):,} tools, {len(prompts)} queries of about "
        f"{np.mean([*map(len, prompts)]):.0f} tokens, "
        f"{str(model.dtype).removeprefix('torch.')}",
        ("way", "queries/s", "ratio", "same ranking, %"),
        [
            (
                "one query at a time, trie of dicts (ToolGen)",
                rate_one,
                rate / rate_one,
                same(kept["ours"], kept["one"]),
            ),
            (
                f"transformers generate, batches of {batch}",
                rate_batched,
                rate / rate_batched,
                same(kept["ours"], kept["batched"]),
            ),
            ("factory.engines.beam", rate, None, None),
        ],
    )


def main() -> None:
    """Parse the sizes, make the model, print a table for each beam width."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tools", type=int, default=47_933)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--beams", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--shared", type=int, default=25, help="tokens that all begin with")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    offline()
    import torch
    from transformers import AutoModelForCausalLM

    print_machine("torch", "transformers")
    print(f"CPU only, {options.threads} threads")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        catalogue = make_catalogue(Path(folder), options.tools)
        for dtype in options.dtype:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
            for beams, num_shared in product(options.beams, (0, options.shared)):
                prompts = make_prompts(options.queries, num_shared=num_shared)
                compare(model.eval(), catalogue, prompts, beams, options.batch)


def offline() -> None:
    """The environment of the factory's own children: no network, no stray output."""
    import os
    import warnings

    os.environ.update(CHILD_ENV)
    warnings.simplefilter("ignore")


if __name__ == "__main__":
    main()

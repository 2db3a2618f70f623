"""Training the seed model: plan, optimisers, phases, and the checkpoint folder.

The first phase teaches documents from requests, documents from descriptions, and calls from tools
and requests (algorithms §1.2). The second gives the tool pool its codes and adds the two kinds
that teach them (algorithms §8). The third has many invented words, which can only be copied. One
random stream and a fixed number of steps: the same command makes the same weights on the same
machine. Every prompt goes through the templates in prompts/.

torch and transformers are imported where they are used: `factory seed --help` needs neither.
"""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from jinja2 import Template

from factory.codes.arrays import Floats
from factory.codes.codebook import Codebook
from factory.codes.growing import fit_codebook, refresh
from factory.codes.install import install
from factory.codes.literal import encoder_of
from factory.codes.saving import save_codebook
from factory.codes.vocabulary import embed_documents
from factory.domain.disk import disk_remedy
from factory.domain.failures import DiskError
from factory.domain.records import (
    IGNORED,
    Completion,
    Example,
    Reply,
    Request,
    Sampling,
    Score,
    Tool,
)
from factory.engines.sharing import open_to_others
from factory.engines.turn import read_turn
from factory.engines.turn import render as render_chat
from factory.lab.home.world import catalogue_specs
from factory.lab.seed.examples import (
    SeedSplit,
    catalogue_tools,
    coded_examples,
    make_code,
    make_retrieve,
    seed_examples,
    shipped_prompts,
)
from factory.lab.seed.tokenizer import make_tokenizer
from factory.score.calls.judging import judge
from factory.score.calls.kind import Benchmark, make_request
from factory.score.estimates import summarise
from factory.train.encoding import Encoded, encode, render
from factory.train.examples import encode_text, write_examples
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.models import fingerprint
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import CodesSection

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NUM_TOKENIZER_EXAMPLES = 6000
"""Examples that the tokenizer is fitted to."""
NUM_REPLAY_EXAMPLES = 1000
"""Examples written beside the weights, of which rounds replay a part (algorithms A10)."""
CHUNK = 32
"""Batches that are sorted by length together."""
MAX_ANSWER = 192
"""Tokens of an answer when the model is measured."""
ANSWERS = 40
"""Prompts that are answered together."""
REPORT_EVERY = 100
"""Steps between two lines of progress."""

Report = Callable[[str], None]
Batch = list[Encoded]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A part of the run. Example: Phase(name="calls", steps=100, rate=2e-3, end=1.0, ...)."""

    name: str
    steps: int
    rate: float
    """Learning rate after the warm-up, for AdamW and (matched in RMS) Muon."""
    end: float
    """Share of the rate that it falls to, linearly."""
    split: SeedSplit
    """Where its examples are drawn from."""
    coded: bool
    """Whether it teaches codes too."""

    def share(self, step: int, warmup: int) -> float:
        """Share of the rate at a step: linear up over the warm-up, linear down to `end`."""
        return min((step + 1) / warmup, 1 - (1 - self.end) * step / self.steps)


PHASES = (
    Phase(name="calls", steps=3393, rate=2e-3, end=1.0, split="seed", coded=False),
    Phase(name="codes", steps=2400, rate=2e-3, end=3 / 11, split="novel", coded=True),
    Phase(name="words", steps=2600, rate=1.5e-3, end=0.0, split="wild", coded=True),
)
"""First the forms, then codes, then words that can only be copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedPlan:
    """Size and schedule of the seed run. Example: SeedPlan(hidden_size=128)."""

    phases: tuple[Phase, ...] = PHASES
    warmup: int = 100
    """Steps of linear warm-up at the start of each phase."""
    batch_size: int = 16
    vocabulary_size: int = 2000
    """Byte pairs; boilerplate and code tokens are not counted."""
    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 8
    intermediate_size: int = 640
    """Width of the feed-forward part."""
    code_size: int = 32
    """Codes a level."""
    seed: int = 1
    """Of the weights and of the data."""
    benchmarks: tuple[str, ...] = ("home", "home-dev")
    """What the result is measured on."""


FULL = SeedPlan()
"""The plan of the checkpoint that ships."""


def train_seed(
    out: Path, *, steps: int | None, threads: int, report: Report, plan: SeedPlan = FULL
) -> None:
    """Train the seed model and write its checkpoint folder `out`, whole or not at all.

    An `out` that exists is replaced. With `steps` that many are taken in all, shared out among the
    phases as in the plan. The weights are reproducible for one number of CPU threads. `report`
    hears a line of progress every REPORT_EVERY steps. Raises DiskError.
    """
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    run = SeedRun(plan if steps is None else shrink(plan, steps), report)
    for phase in run.plan.phases:
        run.teach(phase)
    run.finish(out)


def shrink(plan: SeedPlan, steps: int) -> SeedPlan:
    """The plan with another number of steps, each phase keeping its share of them."""
    share = steps / sum(phase.steps for phase in plan.phases)
    phases = [replace(phase, steps=max(1, round(phase.steps * share))) for phase in plan.phases]
    return replace(plan, phases=tuple(phases), warmup=max(1, round(plan.warmup * min(1.0, share))))


class SeedRun:
    """One run: a model and its tokenizer on the way through the phases."""

    def __init__(self, plan: SeedPlan, report: Report) -> None:
        self.plan = plan
        self.report = report
        self.prompts = shipped_prompts()
        self.rng = Random(f"data {plan.seed}")
        self.tokenizer = fit_tokenizer(plan, self.prompts)
        self.turn = read_turn(self.tokenizer, frozenset({int(self.tokenizer.eos_token_id)}))
        self.model = make_model(plan, self.tokenizer)
        self.codebook: Codebook | None = None
        self.log: list[dict[str, Any]] = []
        """Every line of progress, in figures: phase, step, loss, tokens, seconds."""

    def teach(self, phase: Phase) -> None:
        """Run one phase; the first coded one begins by giving the tool pool its codes.

        At the end the weights are rounded to their stored form, so that the next phase can as
        well start from a stored checkpoint.
        """
        if phase.coded and self.codebook is None:
            self.codebook = self._give_codes()
        if phase.coded:
            specs = catalogue_specs()
            examples = coded_examples(self.rng, self.prompts, specs, phase.split)
        else:
            examples = seed_examples(self.rng, self.prompts, phase.split)
        self._run(phase, self._batches(examples))
        round_weights(self.model)

    def _give_codes(self) -> Codebook:
        """Fit the codebook over the tool pool and add the code tokens with their first rows."""
        pool = catalogue_tools()
        order = sorted(range(len(pool)), key=lambda row: pool[row].id)
        tools, codes = [pool[row] for row in order], CodesSection(size=self.plan.code_size)
        codebook = fit_codebook(tools, self._embed(pool)[order], codes, seed=self.plan.seed)
        install(codebook, self.model, self.tokenizer, self._embed(tools))
        self.report(f"codes: {codebook.summary()}")
        return codebook

    def _embed(self, tools: Sequence[Tool]) -> Floats:
        """(N, D) embeddings of the tools' documents by the model as it is."""
        texts = [encode_text(tool, self.prompts) for tool in tools]
        return embed_documents(self.model, self.tokenizer, texts)

    def _batches(self, examples: Iterator[Example]) -> Iterator[Batch]:
        """Endless batches of examples of similar length, in random order.

        Examples of code and retrieve are short and so share batches, which have a loss mean of
        their own: their few target tokens do not drown among a document's (algorithms §8).
        """
        size = self.plan.batch_size
        while True:
            chunk = [self._encode(example) for example in islice(examples, size * CHUNK)]
            chunk.sort(key=lambda encoded: len(encoded.input_ids))
            starts = list(range(0, len(chunk), size))
            self.rng.shuffle(starts)
            yield from (chunk[start : start + size] for start in starts)

    def _encode(self, example: Example) -> Encoded:
        messages = render(example, self.codebook)
        # One chat, since its template renders turns always alike; no text holds its end of turn.
        (encoded,) = encode(example.kind, messages, self.tokenizer, self.turn)
        return encoded

    def _run(self, phase: Phase, batches: Iterator[Batch]) -> None:
        """The phase's optimiser steps; bfloat16 arithmetic where the processor computes in it."""
        import torch

        optimizers = make_optimizers(self.model)
        fast = torch.cpu._is_avx512_bf16_supported()
        started = marked = time.monotonic()
        tokens, losses = 0, []
        self.model.train()
        for step, batch in enumerate(islice(batches, phase.steps)):
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                mean = batch_loss(self.model, batch)
            mean.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = phase.rate * phase.share(step, self.plan.warmup)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            tokens += sum(len(encoded.input_ids) for encoded in batch)
            losses.append(mean.item())
            if (step + 1) % REPORT_EVERY == 0 or step + 1 == phase.steps:
                now = time.monotonic()
                loss = sum(losses) / len(losses)
                self._note(phase, step + 1, loss, tokens, now - marked, now - started)
                marked, tokens, losses = now, 0, []

    def _note(
        self, phase: Phase, step: int, loss: float, tokens: int, seconds: float, since: float
    ) -> None:
        """Log and report the mean loss since the last note."""
        self.log.append(
            {"phase": phase.name, "step": step, "loss": loss, "tokens": tokens, "seconds": seconds}
        )
        left = (phase.steps - step) * since / step
        self.report(
            f"{phase.name} {step}/{phase.steps}  loss {loss:.3f}  {tokens / seconds:.0f} tokens/s  "
            f"{since / 60:.0f} min, about {left / 60:.0f} min left in this phase"
        )

    def measure(self, name: str) -> Score:
        """Greedy answers to a shipped benchmark, judged as rounds judge them."""
        whole = Benchmark.load(Workspace(root=shipped_root()), name)
        benchmark = replace(whole, max_tokens=MAX_ANSWER)
        requests = [make_request(benchmark, item, self.prompts) for item in benchmark.items]
        replies = self._answer(requests)
        scores = [judge(item, reply) for item, reply in zip(benchmark.items, replies, strict=True)]
        return summarise(name, "seed", scores)

    def measure_codes(self) -> dict[str, float]:
        """Percent of right codes over the tool pool, free greedy answers: from documents, and from
        requests that training did not see."""
        assert self.codebook is not None
        rng = Random(f"codes {self.plan.seed}")
        specs = catalogue_specs()
        examples = {
            "code": [make_code(self.prompts, tool, "") for tool in catalogue_tools()],
            "retrieve": [make_retrieve(self.prompts, rng, spec, "") for spec in specs],
        }
        shares = {}
        for kind, asked in examples.items():
            requests = [
                Request(id=str(n), sampling=Sampling(), messages=example.messages[:-1])
                for n, example in enumerate(asked)
            ]
            right = [
                reply.completions[0].text == render(example, self.codebook)[-1].content
                for example, reply in zip(asked, self._answer(requests), strict=True)
            ]
            shares[kind] = 100 * sum(right) / len(right)
        return shares

    def _answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Greedy answers; prompts of similar length share a batch."""
        prompts = [self._prompt(request) for request in requests]
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        replies: dict[int, Reply] = {}
        for start in range(0, len(order), ANSWERS):
            rows = order[start : start + ANSWERS]
            for row, ids in zip(rows, self._generate([prompts[row] for row in rows]), strict=True):
                replies[row] = self._reply(requests[row], len(prompts[row]), ids)
        return [replies[row] for row in range(len(requests))]

    def _prompt(self, request: Request) -> list[int]:
        encoder = encoder_of(self.tokenizer, self.turn.ends)
        chat = [{"role": m.role, "content": encoder.mark(m.content)} for m in request.messages]
        return encoder.ids(render_chat(self.tokenizer, chat, answer_next=True))

    def _generate(self, prompts: list[list[int]]) -> list[list[int]]:
        """New token ids of each prompt, up to and with the end of turn."""
        import torch

        pad, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        length = max(map(len, prompts))
        ids_BT = torch.tensor([[pad] * (length - len(prompt)) + prompt for prompt in prompts])
        self.model.eval()
        with torch.inference_mode():
            out_BT = self.model.generate(
                input_ids=ids_BT,
                attention_mask=(ids_BT != pad).long(),
                max_new_tokens=MAX_ANSWER,
                do_sample=False,
                pad_token_id=pad,
            )
        answers: list[list[int]] = out_BT[:, length:].tolist()
        return [row[: row.index(end) + 1] if end in row else row for row in answers]

    def _reply(self, request: Request, num_prompt_tokens: int, ids: list[int]) -> Reply:
        ended = ids[-1] == self.tokenizer.eos_token_id
        completion = Completion(
            text=self.tokenizer.decode(ids, skip_special_tokens=True),
            token_ids=tuple(ids),
            finish_reason="stop" if ended else "length",
            logprob=0.0,
        )
        return Reply(
            request_id=request.id, completions=(completion,), num_prompt_tokens=num_prompt_tokens
        )

    def finish(self, out: Path) -> None:
        """Measure and write the checkpoint folder aside, then put it in place."""
        scores = [self.measure(name) for name in self.plan.benchmarks]
        for score in scores:
            self.report(f"{score.benchmark}: {score.value:.1f} %  {score.categories}")
        codes = self.measure_codes()
        self.report(f"codes of the pool right: {codes}")
        partial = out.with_name(out.name + ".tmp")
        try:
            if partial.exists():
                shutil.rmtree(partial)
            self._write(partial, scores, codes)
            if out.exists():
                shutil.rmtree(out)
            partial.rename(out)
        except OSError as error:
            raise DiskError(
                f"the checkpoint cannot be written: {error}",
                where=str(partial),
                remedy=f"{disk_remedy(error)}; or give another folder",
            ) from error

    def _write(self, folder: Path, scores: list[Score], codes: dict[str, float]) -> None:
        """Weights (bfloat16), tokenizer, codes, replay examples, figures and card."""
        save_model(self.model, self.tokenizer, folder)
        assert self.codebook is not None
        tools = [entry.tool for entry in self.codebook.tools]
        saved = save_codebook(refresh(self.codebook, self._embed(tools)), folder, self.tokenizer)
        rng = Random(f"replay {self.plan.seed}")
        replay = coded_examples(rng, self.prompts, catalogue_specs(), "wild")
        write_examples(folder / "replay.jsonl", islice(replay, NUM_REPLAY_EXAMPLES))
        figures = {
            "plan": asdict(self.plan),
            "num_tokens": len(self.tokenizer),
            "num_parameters": sum(p.numel() for p in self.model.parameters()),
            "fingerprint": fingerprint(folder),
            "log": self.log,
            "scores": [asdict(score) for score in scores],
            "codes": codes,
            "codebook": saved.summary(),
        }
        (folder / "seed.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(render_card(figures), encoding="utf-8")


def render_card(figures: Mapping[str, Any]) -> str:
    """README.md of a checkpoint, from what seed.json holds."""
    source = Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8")
    card: str = Template(source, trim_blocks=True, keep_trailing_newline=True).render(figures)
    return card


def fit_tokenizer(plan: SeedPlan, prompts: Prompts) -> PreTrainedTokenizerBase:
    """The tokenizer, fitted to the user and assistant texts of seed examples."""
    examples = seed_examples(Random(f"tokenizer {plan.seed}"), prompts)
    texts = [
        message.content
        for example in islice(examples, NUM_TOKENIZER_EXAMPLES)
        for message in example.messages[1:]
    ]
    return make_tokenizer(texts, prompts, plan.vocabulary_size)


def make_model(plan: SeedPlan, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A LlamaForCausalLM with tied embeddings and random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(plan.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=plan.hidden_size,
            intermediate_size=plan.intermediate_size,
            num_hidden_layers=plan.num_layers,
            num_attention_heads=plan.num_heads,
            num_key_value_heads=plan.num_heads,
            max_position_embeddings=2048,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_optimizers(model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for embeddings and norms."""
    import torch

    named = list(model.named_parameters())
    hidden = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(hidden, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def batch_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the batch's target tokens, end of turn included.

    Rows are padded on the right; attention is causal, so padding reaches no target.
    """
    import torch
    from torch.nn import functional

    length = max(len(encoded.input_ids) for encoded in batch)
    ids_BT = torch.zeros(len(batch), length, dtype=torch.long)
    labels_BT = torch.full((len(batch), length), IGNORED)
    for row, encoded in enumerate(batch):
        ids_BT[row, : len(encoded.input_ids)] = torch.tensor(encoded.input_ids)
        labels_BT[row, : len(encoded.labels)] = torch.tensor(encoded.labels)
    targets_BT = labels_BT[:, 1:]
    mask_BT = targets_BT != IGNORED
    hidden_BTD = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state
    logits_NV = model.lm_head(hidden_BTD[:, :-1][mask_BT]).float()
    return functional.cross_entropy(logits_NV, targets_BT[mask_BT])


def round_weights(model: PreTrainedModel) -> None:
    """Give the weights the values that they have when stored in bfloat16."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Weights in bfloat16 and tokenizer, as vLLM and every transformers load them."""
    import torch

    folder.mkdir(parents=True)
    stored = copy.deepcopy(model).to(torch.bfloat16)
    stored.config.dtype = torch.bfloat16
    stored.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    open_to_others(folder)

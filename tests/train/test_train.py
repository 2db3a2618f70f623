"""Training for real: a tiny model, TRL in a child process, checkpoints that vLLM serves."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from conftest_models import tiny_model, tiny_multimodal
from safetensors.torch import load_file, save_file
from workspaces import ROOT, make_workspace

from factory.codes.gist import GIST_PATH, Gist, embed_gists
from factory.codes.growing import fit_codebook
from factory.codes.reader import DocumentReader
from factory.codes.saving import load_codebook
from factory.domain.canon import tool_id
from factory.domain.exhausted import is_out_of_memory
from factory.domain.failures import ChildError, DiskError, InputError, MissingError, ModelError
from factory.domain.records import (
    IGNORED,
    Call,
    Checkpoint,
    Completion,
    Constraint,
    Example,
    Message,
    Pair,
    Progress,
    Query,
    Request,
    Sampling,
    Tool,
)
from factory.engines.loading import make_savable
from factory.engines.opening import open_engine
from factory.engines.retrieve import Retrieved, Retriever
from factory.engines.turn import read_turn
from factory.train.coding import _encode_chats
from factory.train.curriculum import train_setup
from factory.train.encoding import encode, render
from factory.train.examples import code_example, examples_from_sample, write_examples
from factory.train.job import TrainingJob, TrainingResult, TrainingSetup, write_pairs, write_tools
from factory.train.learner import load_learner
from factory.train.run import run_training
from factory.train.trainer import FasterRows, StepsByLength, score_answers, score_fused
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.models import fingerprint
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import (
    CoderName,
    CodesSection,
    GistSection,
    QuantizedSection,
    TrainSection,
    load_recipe,
    vary,
)
from factory.workspace.settings import EngineSection

SETUP = TrainingSetup(
    train=TrainSection(
        method="full",
        learning_rate=6e-3,
        epochs=2,
        batch_size=10,
        micro_batch_size=5,
        max_length=640,
    ),
    codes=CodesSection(size=8, min_tools=16),
    dtype="float32",
)


def but(
    setup: TrainingSetup, codes: CodesSection | None = None, version: int = 1, **train: Any
) -> TrainingSetup:
    """The setup with other codes, which get this version, and other values of [train]."""
    codes = codes or setup.codes
    return replace(setup, codes=codes, version=version, train=vary(setup.train, **train))


VERBS = ("find", "book", "rent", "sell", "move", "read")
NOUNS = ("hotel", "table", "car", "map")


def make_tool(name: str) -> Tool:
    document = {
        "name": name,
        "description": f"Can {name.replace('_', ' ')}.",
        "arguments": {
            "type": "dict",
            "properties": {"city": {"type": "string", "description": "City."}},
            "required": ["city"],
        },
        "results": {"type": "dict", "properties": {}},
    }
    return Tool(id=tool_id(document), document=document)


TOOLS = [make_tool(f"{verb}_{noun}") for verb in VERBS for noun in NOUNS]
MORE_TOOLS = [make_tool(f"lend_{noun}") for noun in (*NOUNS, "half_\ud83d_pair")]


def make_examples(tools: list[Tool], prompts: Prompts) -> list[Example]:
    examples = []
    for number, tool in enumerate(tools):
        query = Query(id=f"q_{number}", text=f"{tool.name} in Oslo", source="test")
        calls = [Call(name=tool.name, arguments={"city": "Oslo"})]
        examples += examples_from_sample(
            query=query, tools=[tool], calls=calls, prompts=prompts, round_number=1
        )
    return examples


@dataclass
class Run:
    """A training run and what its caller was told."""

    job: TrainingJob
    result: TrainingResult
    progress: list[Progress] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def train_once(
    job: TrainingJob,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    max_restarts: int = 0,
    notices: list[str] | None = None,
) -> Run:
    progress: list[Progress] = []
    phases: list[str] = []
    notices = [] if notices is None else notices

    def note(step: Progress) -> None:
        progress.append(step)
        on_progress(step)

    result = asyncio.run(
        run_training(
            job,
            threads=1,
            log=job.out.parent / "train.log",
            on_progress=note,
            max_restarts=max_restarts,
            on_phase=phases.append,
            notify=notices.append,
        )
    )
    return Run(job=job, result=result, progress=progress, phases=phases, notices=notices)


def make_job(
    folder: Path,
    checkpoint: Path,
    examples: list[Example],
    tools: list[Tool],
    setup: TrainingSetup = SETUP,
) -> TrainingJob:
    folder.mkdir(parents=True, exist_ok=True)
    write_examples(folder / "examples.jsonl", examples)
    write_tools(folder / "tools.jsonl", tools)
    return TrainingJob(
        checkpoint=checkpoint,
        out=folder / "out",
        examples=folder / "examples.jsonl",
        new_tools=folder / "tools.jsonl",
        workspace=shipped_root(),
        setup=setup,
    )


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.load(Workspace(shipped_root()))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"), tied=False, max_positions=1024)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, base: Path, prompts: Prompts) -> Run:
    """Full fine-tuning of a model without codes; one example is too long."""
    examples = make_examples(TOOLS, prompts)
    long = Message(role="assistant", content="word " * 600)
    examples.append(Example(kind="invoke", messages=(examples[0].messages[1], long), origin="t"))
    return train_once(make_job(tmp_path_factory.mktemp("first"), base, examples, TOOLS))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, first: Run, prompts: Prompts) -> Run:
    """LoRA on the first run's checkpoint, with five new tools; one holds a lone surrogate."""
    config = but(SETUP, method="lora", batch_size=8, micro_batch_size=8)
    examples = make_examples(MORE_TOOLS, prompts)
    folder = tmp_path_factory.mktemp("second")
    return train_once(make_job(folder, first.job.out, examples, [*TOOLS, *MORE_TOOLS], config))


def engine_section(backend: Any) -> EngineSection:
    return EngineSection(
        backend=backend, threads=1, max_model_len=512, memory_gib=0.1, dtype="float32"
    )


def ask(backend: str, run: Run, folder: Path) -> dict[str, list[Completion]]:
    """A free answer, a code under the trie and a proposed code under the grammar."""
    codebook = load_codebook(run.job.out)
    assert codebook is not None
    messages = (Message(role="user", content="find_hotel in Oslo"),)
    sampling = Sampling(n=8, temperature=1.0, max_tokens=codebook.num_levels + 1, seed=256)
    tries = {"free": None, "code": codebook.trie_path, "proposal": codebook.grammar_path}
    requests = [
        Request(
            id=name,
            messages=messages,
            sampling=sampling,
            constraint=None if path is None else Constraint(trie=str(path)),
        )
        for name, path in tries.items()
    ]

    async def sample() -> dict[str, list[Completion]]:
        engine = await open_engine(
            Checkpoint(id="r1", path=str(run.job.out), fingerprint=run.result.fingerprint),
            settings=engine_section(backend),
            log_folder=folder,
            notify=lambda text: None,
        )
        async with engine:
            replies = await engine.sample(requests)
        return {reply.request_id: list(reply.completions) for reply in replies}

    return asyncio.run(sample())


@pytest.mark.slow
def test_progress_is_reported_and_the_loss_falls(first: Run) -> None:
    steps = [progress.step for progress in first.progress]
    assert steps == list(range(1, 21))
    assert {progress.steps for progress in first.progress} == {20}
    losses = [progress.loss for progress in first.progress]
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])
    assert first.progress[-1].tokens == first.result.num_tokens
    assert first.result.steps == 20 and first.result.restarts == 0
    assert any("training on" in phase for phase in first.phases)


@pytest.mark.slow
def test_counts_add_up_and_the_long_example_is_dropped(first: Run) -> None:
    assert first.result.num_examples == 4 * len(TOOLS)
    assert first.result.dropped == {"invoke/too_long": 1}


@pytest.mark.slow
def test_every_tool_gets_a_code_of_its_own(first: Run) -> None:
    codes = {row.tool_id: row.code for row in first.result.codes}
    assert codes.keys() == {tool.id for tool in TOOLS}
    assert len(set(codes.values())) == len(TOOLS)
    codebook = load_codebook(first.job.out)
    assert codebook is not None
    assert {tool.id: codebook.code_text(tool.id) for tool in TOOLS} == codes
    assert first.result.codebook == codebook.summary()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_multimodal_model_learns_from_texts(
    method: Literal["lora", "full"], prompts: Prompts, tmp_path: Path
) -> None:
    model = tiny_multimodal(tmp_path / "model")
    (model / "preprocessor_config.json").write_text("{}")
    gist = GistSection(views=2, epochs=1)
    config = but(SETUP, vary(SETUP.codes, gist=gist), method=method)
    examples = make_examples(TOOLS, prompts)
    run = train_once(make_job(tmp_path, model, examples, TOOLS, config))
    assert run.progress[-1].loss < run.progress[0].loss and len(run.result.codes) == len(TOOLS)
    before, after = (load_file(path / "model.safetensors") for path in (model, run.job.out))
    assert before.keys() == after.keys()
    assert (run.job.out / "preprocessor_config.json").read_text() == "{}"
    seen = [name for name in before if "vision" in name]
    assert seen and all((before[name] == after[name]).all() for name in seen)
    codebook = load_codebook(run.job.out)
    answers = ask("transformers", run, tmp_path)["code"]
    assert codebook and all(codebook.tool_of(answer.text) for answer in answers)


@pytest.mark.slow
def test_the_result_is_a_plain_folder_with_its_fingerprint(first: Run) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert first.result.fingerprint == fingerprint(first.job.out)
    assert first.result.path == first.job.out
    model = AutoModelForCausalLM.from_pretrained(first.job.out)
    tokenizer = AutoTokenizer.from_pretrained(first.job.out)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert tokenizer.chat_template is not None
    left = {path.name for path in first.job.out.parent.iterdir()}
    assert left == {"examples.jsonl", "tools.jsonl", "out", "train.log"}
    assert all(path.is_file() for path in first.job.checkpoint.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("which", ["first", "second"])
def test_vllm_serves_it_and_it_writes_valid_codes(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Run = request.getfixturevalue(which)
    codebook = load_codebook(run.job.out)
    assert codebook is not None
    answers = ask("vllm", run, tmp_path)
    assert all(codebook.tool_of(c.text) is not None for c in answers["code"])
    assert all(codebook.parse(c.text) is not None for c in answers["proposal"])
    assert len(answers["free"]) == 8
    assert {c.finish_reason for c in answers["code"]} == {"stop"}


def losses_by_hand(
    base: Path, coded: Path, examples: Sequence[Example], is_code: Callable[[Example, int], bool]
) -> dict[bool, list[float]]:
    """Losses of the trained tokens under the model of `base`, of codes and of all other text.

    `coded` is the folder whose codes the examples are rendered with.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    turn = read_turn(tokenizer, frozenset({tokenizer.eos_token_id}))
    codebook = load_codebook(coded)
    losses: dict[bool, list[float]] = {True: [], False: []}
    for example in examples:
        (encoded,) = encode(example.kind, render(example, codebook), tokenizer, turn)
        with torch.no_grad():
            logits = model(torch.tensor([encoded.input_ids])).logits[0, :-1]
        labels = torch.tensor(encoded.labels[1:])
        nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        for label, loss in zip(labels.tolist(), nll.tolist(), strict=True):
            if label != IGNORED:
                losses[is_code(example, label)].append(loss)
    return losses


def weigh(losses: Mapping[bool, Sequence[float]], setup: TrainingSetup) -> float:
    """The objective: means of codes and of other text, by the share that codes have."""
    mean = {is_code: sum(values) / len(values) for is_code, values in losses.items()}
    share = setup.train.code_share
    return share * mean[True] + (1 - share) * mean[False]


@pytest.mark.slow
def test_code_tokens_get_their_share_of_the_loss(
    first: Run, prompts: Prompts, tmp_path: Path
) -> None:
    """One step over all examples, at a learning rate of 0, against the loss computed by hand."""
    from transformers import AutoTokenizer

    examples = [e for e in make_examples(TOOLS[:3], prompts) if e.kind != "gen"]
    config = but(SETUP, epochs=1, batch_size=9, micro_batch_size=3)
    run = train_once(make_job(tmp_path, first.job.out, examples, [], config))

    tokenizer = AutoTokenizer.from_pretrained(first.job.out)

    def is_code(example: Example, label: int) -> bool:
        return re.fullmatch(r"<[a-z]_\d+>", tokenizer.decode([label])) is not None

    losses = losses_by_hand(first.job.out, first.job.out, examples, is_code)
    assert run.progress[0].loss == pytest.approx(weigh(losses, config), rel=1e-4)


@pytest.mark.slow
def test_a_second_run_keeps_codes_and_adds_new_ones(first: Run, second: Run) -> None:
    old, new = load_codebook(first.job.out), load_codebook(second.job.out)
    assert old is not None and new is not None
    assert [row.tool_id for row in second.result.codes] == [tool.id for tool in MORE_TOOLS]
    assert all(new.code_of(tool.id) == old.code_of(tool.id) for tool in TOOLS)
    assert len(new) == len(TOOLS) + len(MORE_TOOLS)
    assert new.version == old.version


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_recipe_without_codes_makes_none_and_leaves_the_parents(
    method: Literal["full", "lora"],
    base: Path,
    first: Run,
    prompts: Prompts,
    tmp_path: Path,
) -> None:
    """A model without codes gets none; one with codes keeps each, its coder in the new space."""
    examples = [e for e in make_examples(MORE_TOOLS[:4], prompts) if e.kind == "invoke"]
    config = but(SETUP, method=method, epochs=1, codes=CodesSection(coder="none"))
    bare = train_once(make_job(tmp_path / "bare", base, examples, [], config))
    assert load_codebook(bare.job.out) is None and bare.result.codebook is None
    assert bare.result.codes == () and bare.result.num_examples == 4

    kept = train_once(make_job(tmp_path / "kept", first.job.out, examples, [], config))
    old, new = load_codebook(first.job.out), load_codebook(kept.job.out)
    assert old is not None and new is not None and kept.result.codes == ()
    assert {t: new.code_text(t) for t in new.tool_ids} == {
        t: old.code_text(t) for t in old.tool_ids
    }
    assert (new.version, new.report.age) == (old.version, old.report.age + 1)


@pytest.mark.slow
def test_another_coder_makes_all_codes_anew_and_teaches_them(
    first: Run, prompts: Prompts, tmp_path: Path
) -> None:
    """The recipe's coder counts; every tool learns its new code, the old folder stays as it was."""
    quantized = QuantizedSection(hidden=(32,), latent=16, epochs=40)
    codes = CodesSection(coder="quantized", size=8, quantized=quantized)
    config = but(SETUP, version=2, epochs=1, batch_size=8, micro_batch_size=8, codes=codes)
    job = make_job(tmp_path, first.job.out, make_examples(TOOLS[:2], prompts), TOOLS[:3], config)
    pairs = [Pair(a=a.id, b=b.id, weight=2.0) for a, b in pairwise(TOOLS)]
    write_pairs(job.pairs, pairs)
    run = train_once(job)
    old, new = load_codebook(first.job.out), load_codebook(job.out)
    assert old is not None and new is not None
    assert (old.coder.name, new.coder.name) == ("residual", "quantized")
    assert (old.version, new.version) == (1, 2)
    assert run.result.recoded is not None
    assert "the recipe has quantized" in run.result.recoded["reason"]
    changed = [t for t in TOOLS if old.code_text(t.id) != new.code_text(t.id)]
    assert run.result.recoded["churn"] == len(changed) / len(TOOLS)
    positions = min(old.num_levels, new.num_levels)
    assert sum(alias.overlap for alias in run.result.aliases) == positions * len(old)
    assert {row.tool_id for row in run.result.codes} == {tool.id for tool in TOOLS}
    known = sum(tool in changed for tool in TOOLS[:2])
    assert run.result.num_examples == 4 * 2 + len(changed) - known
    assert new.report.age == 1


def test_compression_reads_documents_as_it_was_trained_to(base: Path, prompts: Prompts) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    reader = DocumentReader(model=model, tokenizer=tokenizer, prompts=prompts)
    reader.compress(
        TOOLS[:4], GistSection(views=2, rank=2, alpha=4, epochs=1), 0, lambda text: None
    )
    assert reader.gist is not None and reader.gist.prompt == "codes/compress"
    for name in ("codes/compress", "codes/encode"):
        reader.gist = replace(reader.gist, prompt=name)
        texts = [prompts.render(name, tool=tool.document) for tool in TOOLS[:4]]
        expected_NVD = embed_gists(model, tokenizer, reader.gist, texts)
        np.testing.assert_array_equal(reader.embed(TOOLS[:4]), expected_NVD)


def test_another_layout_is_another_job(base: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", base, [], [])
    layout = {"prompts/codes/compress.j2": "Name: {{ tool.name }}"}
    workspace = make_workspace(tmp_path / "ws", layout)
    assert replace(job, workspace=workspace.root).digest() != job.digest()
    same = make_workspace(tmp_path / "same", {})
    assert replace(job, workspace=same.root).digest() == job.digest()


@pytest.mark.slow
def test_gist_states_are_learnt_kept_and_learnt_on(
    first: Run, prompts: Prompts, tmp_path: Path
) -> None:
    """SGTC's loop (A16): compress, code, train; then new tools by the stored compression; then all
    anew, compression going on from where it was, with adapters of another rank."""
    gist = GistSection(views=2, rank=4, alpha=8, epochs=2, learning_rate=2e-3)
    codes = CodesSection(size=8, levels=2, gist=gist)
    config = but(SETUP, version=2, epochs=1, batch_size=8, micro_batch_size=8, codes=codes)
    few = make_examples(TOOLS[:2], prompts)
    one = train_once(make_job(tmp_path / "1", first.job.out, few, [], config))
    assert "the recipe has residual codes over 2 gist states" in one.result.recoded["reason"]
    assert any("compressing documents, epoch 1" in phase for phase in one.phases)
    old = load_codebook(one.job.out)
    assert old is not None and old.views == 2 and len(old.coder.sizes) == 4

    two = train_once(make_job(tmp_path / "2", one.job.out, few, MORE_TOOLS, config))
    new = load_codebook(two.job.out)
    assert new is not None and two.result.recoded is None
    assert all(new.code_of(tool.id) == old.code_of(tool.id) for tool in TOOLS)
    assert all(tool.id in new for tool in MORE_TOOLS)
    assert not any("compressing" in phase for phase in two.phases)
    kept, learnt = (Gist.load(run.job.out / GIST_PATH) for run in (two, one))
    assert kept.epochs == learnt.epochs and kept.gist_VD.equal(learnt.gist_VD)

    wider = vary(gist, rank=6)
    anew = but(config, vary(codes, recode_every=1, gist=wider), version=3)
    three = train_once(make_job(tmp_path / "3", two.job.out, few, [], anew))
    assert "trainings old" in three.result.recoded["reason"]
    on = Gist.load(three.job.out / GIST_PATH)
    assert on.config == wider and on.epochs[0].held_out < learnt.epochs[0].held_out
    last = load_codebook(three.job.out)
    assert last is not None and (last.version, len(last)) == (3, len(new))

    body = but(anew, vary(anew.codes, post_guided="body"), version=4)
    more = [make_tool("lend_pen")]
    four = train_once(make_job(tmp_path / "4", three.job.out, few, more, body))
    assert "trainings old" in four.result.recoded["reason"]
    assert any("moving the gist tokens, epoch 1" in phase for phase in four.phases)
    assert not any("compressing" in phase for phase in four.phases)
    moved = Gist.load(four.job.out / GIST_PATH)
    assert all(moved.adapter[name].equal(on.adapter[name]) for name in on.adapter)
    assert moved.indicator_MD.equal(on.indicator_MD)
    helped = moved.epochs[1].held_out < moved.epochs[0].held_out
    assert moved.gist_VD.equal(on.gist_VD) != helped
    codebook = load_codebook(four.job.out)
    assert codebook is not None and (codebook.version, len(codebook)) == (4, len(new) + 1)
    assert codebook.summary() == four.result.codebook


@pytest.mark.slow
def test_text_no_tokenizer_can_read_is_dropped_but_its_tool_gets_a_code(second: Run) -> None:
    assert len(second.result.codes) == len(MORE_TOOLS)
    dropped = second.result.dropped
    assert dropped["gen/not_unicode"] == dropped["invoke/not_unicode"] == 1
    assert sum(dropped.values()) + second.result.num_examples == 4 * len(MORE_TOOLS)


@pytest.mark.slow
def test_lora_changes_layers_and_code_rows_only(first: Run, second: Run) -> None:
    from transformers import AutoTokenizer

    before, after = (load_file(run.job.out / "model.safetensors") for run in (first, second))
    assert before.keys() == after.keys()
    tokenizer = AutoTokenizer.from_pretrained(first.job.out)
    is_code = [
        re.fullmatch(r"<[a-z]_\d+>", token) is not None
        for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    ]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        changed = (before[name] != after[name]).any(dim=1).tolist()
        assert not any(change and not code for change, code in zip(changed, is_code, strict=True))
        assert any(changed)
    layer = "model.layers.0.mlp.up_proj.weight"
    assert (before[layer] != after[layer]).any()
    assert second.progress[-1].loss < second.progress[0].loss


@pytest.mark.slow
def test_a_killed_child_is_run_again_to_the_same_weights(first: Run, tmp_path: Path) -> None:
    """Same seed, same weights; and dying in between changes nothing."""
    job = replace(first.job, out=tmp_path / "out")
    killed: list[int] = []

    def kill_once(progress: Progress) -> None:
        if not killed and progress.step == 5:
            killed.append(kill_training_child())

    again = train_once(job, on_progress=kill_once, max_restarts=1)
    assert killed and again.result.restarts == 1
    assert any("SIGKILL" in notice for notice in again.notices)
    assert [p.step for p in again.progress][-20:] == list(range(1, 21))
    assert again.result.fingerprint == first.result.fingerprint

    finished = train_once(job)
    assert finished.progress == []
    assert finished.result == replace(again.result, restarts=0)


def kill_training_child() -> int:
    """Kill this process's child, the way an out-of-memory killer does."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _parent(folder) == os.getpid():
            os.kill(int(folder.name), signal.SIGKILL)
            return int(folder.name)
    raise AssertionError("no child is running")


def _parent(folder: Path) -> int:
    try:
        fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0
    running = b"factory.train.child" in (folder / "cmdline").read_bytes()
    return int(fields[1]) if running else 0


@pytest.mark.slow
def test_a_child_that_always_dies_ends_with_the_cause(first: Run, tmp_path: Path) -> None:
    job = replace(first.job, out=tmp_path / "out")

    def kill(progress: Progress) -> None:
        if progress.step == 1:
            kill_training_child()

    with pytest.raises(ChildError, match="died 2 times, last: killed by SIGKILL") as caught:
        train_once(job, on_progress=kill, max_restarts=1)
    assert not job.out.exists()
    assert "train.micro_batch_size=1" in caught.value.remedy


@pytest.mark.slow
def test_an_exception_of_the_child_ends_training_at_once(
    base: Path, prompts: Prompts, tmp_path: Path
) -> None:
    """Broken weights, and adapters of 256 TB: a second child would end in the same way."""
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    weights = load_file(broken / "model.safetensors") | {"model.norm.weight": torch.ones(3)}
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    examples = make_examples(TOOLS[:3], prompts)
    huge = but(SETUP, method="lora", lora_rank=10**12)
    for checkpoint, config, says, remedy in (
        (broken, SETUP, "training failed: exit code 1; .*RuntimeError", "log"),
        (base, huge, "ran out of memory: .*allocate memory", "train.micro_batch_size=1"),
    ):
        job = make_job(tmp_path / config.train.method, checkpoint, examples, TOOLS[:3], config)
        notices: list[str] = []
        with pytest.raises(ChildError, match=f"(?s){says}") as caught:
            train_once(job, max_restarts=3, notices=notices)
        assert notices == [] and remedy in caught.value.remedy


def test_a_lack_of_memory_is_known_from_other_errors() -> None:

    def raised(make: Callable[[], object]) -> Exception:
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            make()
        return caught.value

    def raise_cuda() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    lacks = [lambda: bytearray(1 << 60), lambda: torch.empty(1 << 60), raise_cuda]
    assert all(is_out_of_memory(raised(make)) for make in lacks)
    assert is_out_of_memory(OSError(errno.ENOMEM, "no room"))
    assert is_out_of_memory(RuntimeError("unable to mmap 9 bytes: Cannot allocate memory (12)"))
    assert is_out_of_memory(RuntimeError("CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(raised(lambda: torch.ones(2) @ torch.ones(3)))


def set_generation(folder: Path, base: Path, **values: object) -> Path:
    """A copy of the model whose generation config has these values, too."""
    shutil.copytree(base, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


GENERATE = """
import json, sys, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto").eval()
chat = [{"role": "user", "content": "Book a table for 4 people."}]
text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
asked = tokenizer(text, add_special_tokens=False, return_tensors="pt")
said = model.generate(**asked, max_new_tokens=12, do_sample=False)[0].tolist()
print(json.dumps([transformers.__version__, said, str(model.dtype), len(tokenizer)]))
"""
"""What a program of another environment does with a checkpoint."""


def answers_of_4_and_5(folder: Path) -> list[list[Any]]:
    """What programs with transformers 4 and 5 make of a model folder."""
    other = os.environ.get("FACTORY_TRANSFORMERS4", "")
    if not other:
        pytest.skip("FACTORY_TRANSFORMERS4 names no folder with transformers 4: make transformers4")
    told = []
    for paths in ([other], []):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", GENERATE, str(folder)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout))
    assert told[0][0].startswith("4.57") and told[1][0].startswith("5.")
    return told


@pytest.mark.slow
def test_transformers_4_reads_a_checkpoint_and_answers_as_5_does(base: Path, first: Run) -> None:
    """`make transformers4` installs one, and names its folder."""
    old, new = answers_of_4_and_5(first.job.out)
    assert old[1:] == new[1:]
    dtype = json.loads((base / "config.json").read_text())["dtype"]
    assert old[2] == f"torch.{dtype}"


def test_transformers_4_reads_the_embedded_model() -> None:
    old, new = answers_of_4_and_5(ROOT / "rounds" / "seed")
    assert old[1:] == new[1:]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_reads_a_checkpoint(first: Run) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as top:
        os.chmod(top, 0o755)
        folder = shutil.copytree(first.job.out, Path(top) / "r1")
        files = [str(path) for path in folder.rglob("*") if path.is_file()]
        command = ["cat", *files]
        done = subprocess.run(
            command, user=65534, group=65534, extra_groups=(), capture_output=True
        )
        assert done.returncode == 0 and len(files) > 5, done.stderr
        assert len(done.stdout) == sum(os.path.getsize(file) for file in files)


def test_generation_settings_are_saved_as_they_are_meant_or_refused(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, GenerationConfig

    base = tiny_model(tmp_path / "base")
    greedy = {"temperature": None, "top_p": None}
    for number, (values, kept) in enumerate(
        (
            ({"temperature": 0.6, "top_p": 0.9, "top_k": 20}, {"do_sample": True}),
            ({"temperature": 0.6, "do_sample": False}, {"do_sample": False, **greedy}),
            ({"temperature": 0.0, "do_sample": False}, {"do_sample": False, **greedy}),
            ({"temperature": 0.0, "top_p": 0.9}, {"do_sample": None, **greedy}),
            ({"temperature": 0.0, "do_sample": True}, {"do_sample": False, **greedy}),
            ({"temperature": 0.6, "do_sample": True}, {}),
            ({"repetition_penalty": 1.1}, {"do_sample": None}),
            ({"pad_token_id": -1}, {"pad_token_id": None, "do_sample": None}),
        )
    ):
        folder = set_generation(tmp_path / str(number), base, **values)
        model = AutoModelForCausalLM.from_pretrained(folder)
        make_savable(model, folder)
        model.save_pretrained(folder / "saved")
        saved = GenerationConfig.from_pretrained(folder / "saved")
        assert (values | kept).items() <= saved.to_dict().items()
        again = AutoModelForCausalLM.from_pretrained(folder / "saved")
        assert len(again.generate(torch.tensor([[7, 8]]), max_new_tokens=2)[0]) > 2
    folder = set_generation(tmp_path / "beams", base, length_penalty=0.5)
    with pytest.raises(ModelError, match="length_penalty") as caught:
        make_savable(AutoModelForCausalLM.from_pretrained(folder), folder)
    assert caught.value.where == str(folder / "generation_config.json")


@pytest.mark.slow
def test_a_model_with_sampling_values_alone_is_trained_and_saved(
    base: Path, prompts: Prompts, tmp_path: Path
) -> None:
    model = set_generation(tmp_path / "model", base, temperature=0.6, top_p=0.9)
    config = but(SETUP, epochs=1)
    run = train_once(make_job(tmp_path, model, make_examples(TOOLS[:3], prompts), [], config))
    saved = json.loads((run.job.out / "generation_config.json").read_text())
    assert {"temperature": 0.6, "top_p": 0.9, "do_sample": True}.items() <= saved.items()


@pytest.mark.slow
def test_codes_without_tokens_get_their_share_too(
    base: Path, prompts: Prompts, tmp_path: Path
) -> None:
    """Digits in answers of code examples, and no other digits; one step, by hand."""
    from transformers import AutoTokenizer

    examples = [e for e in make_examples(TOOLS[:3], prompts) if e.kind != "gen"]
    codes = CodesSection(coder="numeric", digits=4)
    config = but(SETUP, epochs=1, batch_size=9, micro_batch_size=3, codes=codes)
    run = train_once(make_job(tmp_path, base, examples, TOOLS, config))

    end = AutoTokenizer.from_pretrained(base).eos_token_id

    def is_code(example: Example, label: int) -> bool:
        return example.kind in ("code", "retrieve") and label != end

    losses = losses_by_hand(base, run.job.out, examples, is_code)
    assert len(losses[True]) >= 6 * 4
    assert run.progress[0].loss == pytest.approx(weigh(losses, config), rel=1e-4)


@pytest.mark.slow
def test_nothing_to_learn_is_an_input_error(first: Run, tmp_path: Path) -> None:
    job = replace(first.job, out=tmp_path / "out", setup=but(SETUP, max_length=4))
    with pytest.raises(InputError, match="no example can be trained on"):
        train_once(job)
    assert not job.out.exists()


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_said_before_it_is_half_there(
    first: Run, tmp_path: Path
) -> None:
    (tmp_path / "out.tmp").write_text("in the way")
    job = replace(first.job, out=tmp_path / "out", setup=but(SETUP, epochs=0.1))
    with pytest.raises(DiskError, match="cannot be written"):
        train_once(job)
    assert not job.out.exists()


def test_a_missing_model_is_named(tmp_path: Path, prompts: Prompts) -> None:
    job = make_job(tmp_path, tmp_path / "none", make_examples(TOOLS[:1], prompts), [])
    with pytest.raises(ModelError, match="does not exist"):
        train_once(job)


def test_a_missing_package_is_named(
    tmp_path: Path, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.train.run.LIBRARIES", ("torch", "no_such_package"))
    job = make_job(tmp_path, tmp_path, make_examples(TOOLS[:1], prompts), [])
    with pytest.raises(MissingError, match="no_such_package"):
        train_once(job)


def test_a_step_is_cut_by_length_and_every_epoch_is_another_order() -> None:
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    lengths = [(7 * row) % 23 for row in range(50)]
    sampler = StepsByLength(lengths, 16, seed=3)
    loader = Accelerator(cpu=True).prepare_data_loader(
        DataLoader(range(50), batch_size=4, sampler=sampler)  # type: ignore[arg-type]
    )
    epochs = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        epochs.append([row for batch in loader for row in batch.tolist()])
    assert epochs[0] == epochs[2] != epochs[1]
    for order in epochs:
        assert sorted(order) == list(range(50))
        for start in range(0, 50, 16):
            step = [lengths[row] for row in order[start : start + 16]]
            assert step == sorted(step, reverse=True)
    assert {*epochs[0][:16]} != {*epochs[1][:16]}


@pytest.mark.parametrize("tied", [True, False])
def test_the_first_step_of_rows_is_as_long_as_their_rate(tied: bool, tmp_path: Path) -> None:
    """Adam's first step is the learning rate, whatever the gradient: of the rows so many times."""
    from transformers import AutoModelForCausalLM

    folder = tiny_model(tmp_path / "tiny", tied=tied)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows, ids = [3, 5, 9], torch.tensor([[1, 3, 5, 9, 2, 5]])
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    before = [table.detach().clone() for table in tables]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, eps=1e-30)
    faster = FasterRows(model, rows, 25.0)
    model(input_ids=ids, labels=ids).loss.backward()
    faster.on_pre_optimizer_step()
    optimizer.step()
    faster.on_optimizer_step()
    for table, old in zip(tables, before, strict=True):
        moved = (table.detach() - old).abs()
        assert torch.allclose(moved[rows], torch.full_like(moved[rows], 0.025), rtol=1e-2)
        assert moved[1].max() <= 0.00101 and moved[2].max() <= 0.00101
    assert (tables[0] is tables[1]) is tied


@pytest.mark.parametrize("make", [tiny_model, tiny_multimodal])
def test_scoring_targets_alone_is_the_fused_score(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    """What a CPU scores equals what TRL's fused head scores, row by row and token by token."""
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    model = AutoModelForCausalLM.from_pretrained(make(tmp_path / "model"), dtype="float32").train()
    add_fused_lm_head(model)
    ids = torch.randint(5, 90, (3, 12), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[0, :7] = labels[1, :9] = labels[2, :4] = labels[2, 6:9] = IGNORED
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    scores = []
    for score in (score_fused, score_answers):
        log_probs, places = score(model, inputs)
        scores.append(log_probs[labels[:, 1:][:, places] != IGNORED])
    assert len(scores[0]) == 13
    torch.testing.assert_close(*scores)


def test_loading_the_child_asks_for_no_gpu() -> None:
    """Once CUDA has started, hiding all GPUs but one has no effect."""
    program = (
        "import torch\n"
        "asked = []\n"
        "for name in ('is_available', 'device_count', '_lazy_init'):\n"
        "    setattr(torch.cuda, name, lambda *_, name=name: asked.append(name))\n"
        "import factory.train.child\n"
        "assert not asked, asked\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_job_is_json(tmp_path: Path) -> None:
    job = make_job(tmp_path, tmp_path, [], [])
    assert TrainingJob.from_json(json.loads(json.dumps(job.to_json()))) == job
    trial = replace(
        job, setup=but(SETUP, vary(SETUP.codes, post_guided="body", gist=GistSection(views=2)))
    )
    assert TrainingJob.from_json(json.loads(json.dumps(trial.to_json()))) == trial


def test_a_training_is_known_by_its_parent_in_every_part(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    job = make_job(tmp_path, folder, [], [])
    before, of_weights = job.digest(), job.digest(of_weights=True)
    (folder / "chat_template.jinja").write_text("mended")
    assert job.digest() != before and job.digest(of_weights=True) == of_weights != before


@pytest.mark.parametrize(
    ("recipe", "sha", "digest"),
    [
        ("cpu", "683500722f2b454b", "bf2581d9b4d7"),
        ("base", "d905f3a09f54bc6c", "ecfe9a10a5b0"),
        ("sgtc", "c0e612493723c3d1", "de526866ee67"),
        ("toolgen", "2ff801a2b3377272", "88d770ca59d1"),
        ("tooldev", "fb52536e4ce075aa", "4f35460e8eff"),
        ("toolweaver", "7ba7b844506f7b02", "2d30dc1d9b88"),
    ],
)
def test_a_recipe_and_a_finished_training_are_known_by_what_they_were_stored_with(
    recipe: str, sha: str, digest: str, tmp_path: Path
) -> None:
    """Another value would make every workspace train again what it has."""
    for name in ("encode", "compress"):
        path = tmp_path / "prompts" / "codes" / f"{name}.j2"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}: {{{{ tool.name if tool is defined else query }}}}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    for name in ("examples", "new_tools", "pairs"):
        (tmp_path / f"{name}.jsonl").write_text(f'"{name}"\n')
    resolved = load_recipe(Workspace(shipped_root()), recipe, {}).recipe
    job = TrainingJob(
        checkpoint=tmp_path / "model",
        out=tmp_path / "out",
        examples=tmp_path / "examples.jsonl",
        new_tools=tmp_path / "new_tools.jsonl",
        workspace=tmp_path,
        setup=train_setup(resolved, 3, "float32", version=2),
    )
    assert (resolved.sha, job.digest()) == (sha, digest)
    assert TrainingJob.from_json(json.loads(json.dumps(job.to_json()))).digest() == digest


THINKING = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' %}"
    "{% if loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}<|stop|><|end|>"
    "{% else %}{{ m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""An empty thought before the last answer, as Qwen3 has it, and a token after it, as cohere2."""


def thinking_model(folder: Path, *tokens: str) -> Path:
    marks = ("<think>", "</think>", "<|stop|>", *tokens)
    tiny_model(folder, extra_tokens=marks, tied=False, max_positions=1024)
    (folder / "chat_template.jinja").write_text(THINKING)
    return folder


def code_examples(prompts: Prompts) -> list[Example]:
    return [e for e in make_examples(TOOLS, prompts) if e.kind in ("code", "retrieve")]


@pytest.mark.slow
@pytest.mark.parametrize("coder", ["residual", "semantic"])
def test_codes_are_found_behind_the_lead_in_of_a_chat_template(
    coder: CoderName, prompts: Prompts, tmp_path: Path
) -> None:
    """By the beam, by vLLM's guide from the first token on, and freely; the plain template too."""
    base = thinking_model(tmp_path / "base")
    config = but(SETUP, epochs=30, codes=CodesSection(coder=coder, size=8, min_tools=16))
    run = train_once(make_job(tmp_path / "run", base, code_examples(prompts), TOOLS, config))
    codebook = load_codebook(run.job.out)
    assert codebook is not None
    codes = {f"{tool.name} in Oslo": codebook.code_text(tool.id) for tool in TOOLS}
    settings = engine_section("vllm")
    limit = Sampling(temperature=0.0, max_tokens=codebook.num_levels + 6)
    constraint = Constraint(trie=str(codebook.trie_path))

    async def answer() -> tuple[list[Retrieved], dict[str, Completion]]:
        log = tmp_path / "retrieve.log"
        async with await Retriever.open(run.job.out, settings=settings, log=log) as retriever:
            found = await retriever.retrieve([*codes], k=2)
        requests = [
            Request(id=f"{name} {text}", sampling=limit, **asked)
            for text in codes
            for name, asked in {
                "free": {"messages": (Message(role="user", content=text),)},
                "bound": {
                    "messages": (Message(role="user", content=text),),
                    "constraint": constraint,
                },
                "plain": {"prompt": f"<|user|>{text}<|end|><|assistant|>"},
            }.items()
        ]
        engine = await open_engine(
            Checkpoint(id="r1", path=str(run.job.out), fingerprint=run.result.fingerprint),
            settings=settings,
            log_folder=tmp_path,
            notify=lambda text: None,
        )
        async with engine:
            replies = await engine.sample(requests)
        return found, {reply.request_id: reply.completions[0] for reply in replies}

    found, answers = asyncio.run(answer())
    right = dict.fromkeys(("beam", "bound", "free", "plain"), 0)
    for (text, code), each in zip(codes.items(), found, strict=True):
        right["beam"] += each.hits[0].code == code
        right["bound"] += answers[f"bound {text}"].text == code
        right["free"] += answers[f"free {text}"].text == code
        right["plain"] += answers[f"plain {text}"].text == f"<think>\n\n</think>\n\n{code}"
        assert answers[f"bound {text}"].finish_reason == "stop"
    assert min(right.values()) >= 0.9 * len(TOOLS), right


@pytest.mark.slow
def test_codes_whose_tokens_the_tokenizer_joins_are_refused_before_training(
    prompts: Prompts, tmp_path: Path
) -> None:
    base = thinking_model(tmp_path / "base", *(f"<a_{n}><" for n in range(8)))
    job = make_job(tmp_path / "run", base, code_examples(prompts), TOOLS)
    with pytest.raises(ModelError, match=r"keep the tokens of a code apart: \['<a_\d><'"):
        train_once(job)
    assert not job.out.exists()


def test_the_turns_of_a_chat_keep_their_places_whether_it_can_be_learnt_or_not(
    prompts: Prompts, tmp_path: Path
) -> None:
    """What post-guided training holds out must not depend on the codes in force."""
    job = make_job(tmp_path / "run", thinking_model(tmp_path / "base"), [], [])
    learner, codebook = load_learner(job), fit_codebook(TOOLS, None, CodesSection(coder="numeric"))
    for tool, is_known in ((TOOLS[0], True), (make_tool("unknown"), False)):
        chat = [*code_example(tool, prompts, "t").messages] * 2
        example = Example(kind="retrieve", messages=tuple(chat), origin="t")
        chats = _encode_chats(learner, example, codebook, job)
        assert [each is not None for each in chats] == [is_known] * 2

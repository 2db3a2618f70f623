"""Step 9: what a round may learn, as a job for a child; what the child made of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from factory.codes.config import uses_pairs
from factory.codes.graph import join_pairs
from factory.codes.saving import FOLDER, SavedCodebook, load_codebook
from factory.domain.canon import digest, query_id
from factory.domain.failures import GateError
from factory.domain.records import Candidate, Checkpoint, Example, Tool
from factory.engines.early import Early
from factory.ledger import history
from factory.ledger.database import Source
from factory.ledger.history import OpenRound
from factory.ledger.lineage import make_checkpoint
from factory.ledger.losing import losing_answers
from factory.ledger.rows import example_row, tool_rows, training_row
from factory.ledger.tables import Batch, LanguageRow
from factory.lessons.examples import lesson_examples
from factory.lessons.failures import preference_examples
from factory.round.factory import Factory
from factory.round.form import form_to_teach
from factory.round.making import learnt_samples
from factory.round.sampling import codebook_of
from factory.score.labelled import held_out_ids
from factory.score.loading import plain_text
from factory.score.rows import codebook_row
from factory.train.curriculum import (
    called_together,
    documents_to_learn,
    named_together,
    own_examples,
    seed_examples,
    taught_by,
    tools_to_code,
    train_setup,
    unlearnt_tools,
)
from factory.train.examples import (
    calls_in,
    select_replay,
    tools_of,
    turned_round,
    unique_examples,
    write_examples,
)
from factory.train.job import TrainingJob, TrainingResult, write_pairs, write_tools
from factory.train.run import run_training
from factory.workspace.models import check_model_folder, fingerprint


async def train(factory: Factory, this: OpenRound, early: Early | None = None) -> Checkpoint | str:
    """The checkpoint trained on what was accepted, or why there is none; `early` starts with it."""
    folder = history.checkpoint_folder(factory.workspace.state, this.number)
    if "train" in this.stages_done:
        check_model_folder(folder)
        return make_checkpoint(f"r{this.number}", folder, fingerprint(folder))
    with factory.ledger.read() as past:
        accepted = history.accepted_samples(past, this.number)
        needed = factory.recipe.train.min_accepted
        if len(accepted) < needed and not this.is_lesson:
            return f"not trained: {len(accepted)} accepted samples, train.min_accepted is {needed}"
        started = datetime.now(UTC)
        factory.monitor.stage("prepare training")
        held_out = held_out_ids(factory.all_benchmarks)
        accepted = learnt_samples(factory, this, past)
        harder = [
            sample
            for sample in history.made_samples(past, this.number)
            if held_out.isdisjoint({query_id(sample.query.text), *sample.made_of})
        ]
        codebook = codebook_of(factory, this)
        if this.is_lesson:
            documents = history.taught_documents(past, this.number)
            unlearnt = documents if factory.recipe.codes.are_made else []
            examples = _lesson_examples(factory, this, accepted, harder, documents)
        else:
            unlearnt = unlearnt_tools(past, this.checkpoint.id, factory.recipe)
            documents = documents_to_learn(unlearnt, codebook, factory.recipe)
            if documents:
                factory.monitor.stage(f"prepare training, with {len(documents)} documents to learn")
            examples = own_examples(
                [*accepted, *harder],
                documents,
                codebook,
                factory.prompts,
                factory.recipe,
                this.number,
            )
            if factory.recipe.prefers:
                losing = losing_answers(past, this.number)
                examples += preference_examples(accepted, losing, factory.prompts, this.number)
        plain = plain_text(factory.benchmarks, factory.recipe)
        job = _write_job(factory, this, past, folder, accepted, examples, codebook, held_out, plain)
    if early is not None:
        await early.start()
    try:
        result = await run_training(
            job,
            threads=factory.settings.engine.threads,
            log=factory.log_folder(this.number) / "train.log",
            on_progress=lambda progress: factory.monitor.progress(
                progress.step, f"loss {progress.loss:.3f}", progress.steps
            ),
            on_phase=factory.monitor.stage,
            max_restarts=factory.settings.engine.max_restarts,
            notify=factory.monitor.note,
        )
    except GateError as error:
        return f"not trained: {error.what}"
    # A document that was left out is no example: the next round takes it up again.
    left = {tool.id for tool in unlearnt}.intersection(result.unlearnt)
    examples = [e for e in examples if e.kind != "code" or left.isdisjoint(tools_of(e))]
    learnt = {tool_id for e in examples if e.kind == "code" for tool_id in tools_of(e)}
    num_learnt = len({tool.id for tool in unlearnt} & learnt)
    shown = (tool for sample in accepted for tool in sample.tools)
    rows: Batch = {
        "training": [training_row(this.number, step) for step in result.log],
        "example": [example_row(this.number, example) for example in examples],
        "tool": tool_rows(this.number, shown, "round"),
        "language": language_rows(this.number, result, plain),
        **code_rows(this.number, result),
    }
    made = load_codebook(folder)
    detail = {
        "examples": result.num_examples,
        "dropped": result.dropped,
        "documents": {"learnt": num_learnt, "waiting": len(unlearnt) - num_learnt},
        "tokens": result.num_tokens,
        "restarts": result.restarts,
        "recoded": result.recoded,
        "stages": [asdict(stage) for stage in result.stages],
        "pairs": None if made is None else made.report.pairs,
    }
    factory.finish(this.number, "train", started, rows, detail)
    shutil.rmtree(job.examples.parent, ignore_errors=True)
    return make_checkpoint(f"r{this.number}", folder, result.fingerprint)


def _lesson_examples(
    factory: Factory,
    this: OpenRound,
    labelled: Sequence[Candidate],
    made: Sequence[Candidate],
    documents: Sequence[Tool],
) -> list[Example]:
    return lesson_examples(
        labelled,
        documents,
        rulebook=factory.rulebook,
        prompts=factory.prompts,
        recipe=factory.recipe,
        number=this.number,
        made=made,
    )


def _write_job(
    factory: Factory,
    this: OpenRound,
    past: Source,
    folder: Path,
    accepted: Sequence[Candidate],
    examples: Sequence[Example],
    codebook: SavedCodebook | None,
    held_out: frozenset[str],
    plain: str,
) -> TrainingJob:
    """The training job as files: examples with replay, and the tools that need a code."""
    recipe = factory.recipe
    parent = Path(this.checkpoint.path)
    form = form_to_teach(recipe.calls.asked, examples, parent)
    earlier = history.earlier_examples(past, this.number, held_out)
    pools = (taught_by(recipe, _replayed(factory)), taught_by(recipe, earlier))
    seeds, own = ([each for each in pool if calls_in(each, form)] for pool in pools)
    if num_left := sum(map(len, pools)) - len(seeds) - len(own):
        factory.monitor.note(
            f"{num_left} earlier examples call in another form than {form}: they are not replayed"
        )
    replay = select_replay(
        seeds,
        own,
        share=recipe.train.replay,
        limit=recipe.train.replay_limit,
        history=recipe.train.history,
        seed=recipe.seed,
    )
    if recipe.asks:
        turned = (turned_round(example, factory.prompts) for example in replay)
        replay = unique_examples([*replay, *filter(None, turned)])
    work = folder.parent / f"{folder.name}.job"
    work.mkdir(parents=True, exist_ok=True)
    write_examples(work / "examples.jsonl", [*examples, *replay])
    new_tools: list[Tool] = []
    if recipe.codes.are_made:
        new_tools = tools_to_code(history.imported_tools(past), accepted, codebook)
    write_tools(work / "new_tools.jsonl", new_tools)
    (work / "plain.txt").write_text(plain, encoding="utf-8")
    if uses_pairs(recipe.codes):
        called, written = history.called_pairs(past, this.number), history.written_tools(past)
        labelled, answered = (
            called_together(pairs, written, accepted, new_tools, codebook) for pairs in called
        )
        named = named_together(seed_examples(factory.workspace, factory.settings))
        write_pairs(work / "pairs.jsonl", join_pairs([*named, *labelled], answered))
    return TrainingJob(
        checkpoint=parent,
        out=folder,
        examples=work / "examples.jsonl",
        new_tools=work / "new_tools.jsonl",
        workspace=factory.workspace.root,
        setup=replace(
            train_setup(
                recipe,
                this.number,
                factory.settings.engine.dtype,
                history.last_codebook_version(past) + 1,
            ),
            form=form,
        ),
    )


def _replayed(factory: Factory) -> list[Example]:
    """The seed set; a file of the user's own without what asks a benchmark's question."""
    own = seed_examples(factory.workspace, factory.settings)
    if not factory.settings.replay:
        return own
    names = ("calls/invoke", "tools/generate", "codes/retrieve")
    asked = {
        query_id(factory.prompts.render(name, query=item.query))
        for benchmark in factory.all_benchmarks
        for item in benchmark.items
        for name in names
    }
    return [x for x in own if asked.isdisjoint(query_id(m.content) for m in x.messages)]


def language_rows(number: int, result: TrainingResult, text: str) -> list[LanguageRow]:
    """Rows of what the model made of plain text, before, with new codes, and after."""
    sha = digest(text, 16)
    return [
        {
            "round": number,
            "moment": moment,
            "perplexity": read.perplexity,
            "code_mass": read.code_mass,
            "text_sha": sha,
        }
        for moment, read in result.language.items()
    ]


def code_rows(number: int, result: TrainingResult) -> Batch:
    """Rows of the checkpoint's codebook and of the codes given in this round, or given anew."""
    if result.codebook is None:
        return {}
    version = result.codebook["version"]
    return {
        "tool_code": [
            {
                "round": number,
                "codebook_version": version,
                "tool_id": given.tool_id,
                "code": given.code,
                "resolved_by": given.resolved_by,
                "error": given.error,
                "ood": given.ood,
            }
            for given in result.codes
        ],
        "codebook": [codebook_row(number, str(result.path / FOLDER), result.codebook)],
        "code_alias": [
            {
                "round": number,
                "version": version,
                "old_token": alias.old_token,
                "new_token": alias.new_token,
                "overlap": alias.overlap,
            }
            for alias in result.aliases
        ],
    }

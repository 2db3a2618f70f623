"""Benchmarks besides those of eval/: eval new, retrieval, completion, apibank, teval, language."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.cli.opening import open_ledger, open_workspace
from factory.cli.terminal import err, escape, out, print_table, write_json

if TYPE_CHECKING:
    from factory.scorers.items import Grade
    from factory.scorers.toolbench import ToolBench

HELP = "Score on ToolBench, API-Bank, T-Eval and plain text; make a benchmark of your own."


class SettingChoice(StrEnum):
    """Which tools an agent has at hand."""

    GT = "gt"
    RETRIEVAL = "retrieval"


class SplitChoice(StrEnum):
    """What a benchmark may be used for."""

    TEST = "test"
    DEV = "dev"


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    group = typer.Typer(help=HELP, no_args_is_help=True)
    for command in (new, retrieval, completion, apibank, teval, language):
        group.command()(command)
    app.add_typer(group, name="eval", rich_help_panel="Make")


def new(
    name: Annotated[str, typer.Argument(help="Its name: eval/NAME.toml.")],
    file: Annotated[Path, typer.Argument(help="Labelled requests, or ids of accepted ones.")],
    title: Annotated[str, typer.Option(help="One line for people.")] = "",
    split: Annotated[
        SplitChoice, typer.Option(help="test is only reported; dev may decide promotion.")
    ] = SplitChoice.TEST,
) -> None:
    """Make a benchmark of labelled requests, which no round then trains on.

    FILE has JSON lines of question, function and ground_truth as BFCL writes them; or one query id
    a line, of accepted samples that you have read and found right (`factory show ID`).

    factory eval new my-apis labelled.jsonl

    factory eval new confirmed ids.txt --split dev
    """
    from factory.cli.data import report_bad_lines
    from factory.labelled import from_samples, read_ids, read_labelled, write_benchmark

    workspace = open_workspace()
    if ids := read_ids(file):
        from factory import history

        ledger = open_ledger()
        rounds = range(1, history.last_round(ledger) + 1)
        samples = [each for number in rounds for each in history.accepted_samples(ledger, number)]
        items, bad = from_samples(ids, samples, history.trained_queries(ledger))
    else:
        items, bad = read_labelled(file)
    num_bad = report_bad_lines(tuple(bad))
    made = write_benchmark(workspace, name, title or name, split.value, items)
    out(f"eval/{escape(name)}.toml: {len(made.items)} items, {num_bad} bad lines")
    for category in made.categories:
        count = sum(item.category == category for item in made.items)
        out(f"  {category:<18} {count}")
    out(f"next: factory score {escape(name)}")
    if num_bad:
        raise typer.Exit(1)


# Scoring ----------------------------------------------------------------------------------

ModelOption = Annotated[
    str, typer.Option("--model", help="Folder or checkpoint id; default: the latest promoted.")
]
ServedModel = Annotated[
    str,
    typer.Option(
        "--model", help="Folder, checkpoint id, or http://host:port/v1#NAME; default: promoted."
    ),
]
Public = Annotated[
    bool, typer.Option("--allow-public-host", help="Let requests leave your network.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]


def retrieval(
    folder: Annotated[Path, typer.Argument(help="ToolBench's data, or StableToolBench's.")],
    split: Annotated[list[str] | None, typer.Option(help="Only these, e.g. I1-Inst.")] = None,
    embed: Annotated[
        list[Path] | None, typer.Option(help="EmbSim of a model or sentence-transformers folder.")
    ] = None,
    by_code: Annotated[
        list[str] | None,
        typer.Option(help="Model that names tools by code: folder, or id; '' is the promoted one."),
    ] = None,
    bm25: Annotated[bool, typer.Option(help="BM25.")] = True,
    as_json: AsJson = False,
) -> None:
    """Score tool retrieval on ToolBench: textbook and hits-only NDCG, recall, MRR.

    factory eval retrieval ToolBench/data --by-code r3

    factory eval retrieval StableToolBench --embed /models/all-mpnet-base-v2 --split I1-Inst
    """
    from factory.measure import measure_retrieval
    from factory.recipe import load_settings
    from factory.scorers.retrieval import METRICS

    workspace = open_workspace()
    bench = _load_toolbench(folder, split)
    results = asyncio.run(
        measure_retrieval(
            workspace,
            load_settings(workspace),
            bench,
            bm25=bm25,
            embedders=embed or (),
            by_code=by_code or (),
        )
    )
    if as_json:
        records = [
            {"system": r.system, "setting": r.setting, "depth": r.depth, "percent": r.table()}
            for r in results
        ]
        write_json({"queries": len(bench.queries), "results": records})
        return
    out(
        f"{len(bench.queries)} requests, {len(bench.documents)} APIs; percent. ndcg is the "
        "textbook's; ndcg_hits, as ToolGen counts, ranks only what was returned (depth)"
    )
    for result in results:
        out()
        out(f"[bold]{escape(result.system)}[/]  {result.setting}, depth {result.depth}")
        table = result.table()
        rows = [
            (metric, *(f"{values[metric]:.2f}" for values in table.values())) for metric in METRICS
        ]
        print_table(("percent", *table), rows)


def _load_toolbench(folder: Path, splits: list[str] | None) -> ToolBench:
    from factory.scorers.toolbench import load_toolbench

    bench = load_toolbench(folder, splits or ())
    for note in bench.notes:
        err(f"[yellow]note[/] {escape(note)}")
    return bench


def completion(
    folder: Annotated[Path, typer.Argument(help="ToolBench's data, or StableToolBench's.")],
    judge: Annotated[
        str, typer.Option(help="Judges and plays APIs: folder, id, http://host:port/v1#NAME.")
    ],
    model: ServedModel = "",
    split: Annotated[list[str] | None, typer.Option(help="Only these, e.g. I1-Inst.")] = None,
    setting: Annotated[
        SettingChoice, typer.Option(help="gt: only the right tools are at hand.")
    ] = SettingChoice.RETRIEVAL,
    reference: Annotated[
        Path | None, typer.Option(help="Converted answers to win against: SoWR.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="StableToolBench's tool_response_cache.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Requests of each split; 0 is all.", min=0)] = 0,
    constrain_inputs: Annotated[
        bool, typer.Option(help="Bind inputs to the tools' schemas; the paper does not.")
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Write the answers, converted.")] = None,
    allow_public: Public = False,
    as_json: AsJson = False,
) -> None:
    """Solve ToolBench's requests with virtual APIs and judge the answers: SoPR and SoWR.

    factory eval completion StableToolBench --judge http://127.0.0.1:8000/v1#judge --limit 20
    """
    from factory.measure import CompletionPlan, measure_completion
    from factory.recipe import load_settings
    from factory.scorers.judge import to_converted

    workspace = open_workspace()
    bench = _load_toolbench(folder, split)
    plan = CompletionPlan(
        model=model,
        judge=judge,
        setting=setting.value,
        reference=reference,
        cache=cache,
        limit=limit,
        allow_public=allow_public,
        constrain_inputs=constrain_inputs,
    )
    made, results = asyncio.run(
        measure_completion(workspace, load_settings(workspace), bench, plan, err)
    )
    if save is not None:
        answers = {key: to_converted(each) for key, each in made.items()}
        save.write_text(json.dumps(answers, ensure_ascii=False), encoding="utf-8")
    if as_json:
        write_json({split: asdict(result) for split, result in results.items()})
        return
    rows = [
        (
            name,
            len(result.statuses[0]) + result.num_missing,
            f"{result.solved.mean:.2f}",
            f"{result.solved.std:.2f}",
            *([] if result.won is None else [f"{share:.2f}" for share in result.won]),
            result.num_unjudged,
        )
        for name, result in results.items()
    ]
    shares = ("win", "tie", "loss") if reference is not None else ()
    print_table(("split", "requests", "SoPR", "std of runs", *shares, "unjudged"), rows)
    reasons = Counter(each.reason for each in made.values() if each.reason).most_common()
    if reasons:
        out("no answer because  " + ", ".join(f"{count} {escape(why)}" for why, count in reasons))


def language(
    file: Annotated[Path, typer.Argument(help="Any text; the longer the better.")],
    model: ModelOption = "",
    before: Annotated[
        str, typer.Option(help="Folder or id to compare with; default: factory.toml's model.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Measure the perplexity of a text before and after training: how much language is kept.

    factory eval language wiki.test.raw

    factory eval language notes.txt --before r1 --model r3
    """
    from factory.measure import measure_language
    from factory.recipe import load_settings

    workspace = open_workspace()
    settings = load_settings(workspace)
    first = before or str(workspace.model_folder(settings.model))
    found = asyncio.run(measure_language(workspace, settings, file, (first, model)))
    rows = [
        (name, each.value, each.bits_per_character, each.window, each.stride, each.num_tokens)
        for name, several in found.items()
        for each in several
    ]
    columns = ("model", "perplexity", "bits_per_character", "window", "stride", "tokens")
    if as_json:
        write_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)


def apibank(
    folder: Annotated[Path, typer.Argument(help="API-Bank's folder (DAMO-ConvAI/api-bank).")],
    model: ServedModel = "",
    simulate: Annotated[
        bool, typer.Option(help="Execute calls in its simulator, or compare arguments.")
    ] = False,
    allow_public: Public = False,
    as_json: AsJson = False,
) -> None:
    """Score API-Bank's Call and Retrieve+Call, as ToolDev reports them.

    factory eval apibank DAMO-ConvAI/api-bank --simulate
    """
    from factory.measure import measure_apibank
    from factory.recipe import load_settings
    from factory.scorers.apibank import tooldev_score

    workspace = open_workspace()
    grades = asyncio.run(
        measure_apibank(
            workspace,
            load_settings(workspace),
            folder,
            model,
            simulate=simulate,
            allow_public=allow_public,
            notify=err,
        )
    )
    _print_grades(grades, {"tooldev": tooldev_score(grades)}, as_json)


def teval(
    folder: Annotated[Path, typer.Argument(help="T-Eval's data folder.")],
    model: ServedModel = "",
    embed: Annotated[
        Path | None, typer.Option(help="sentence-transformers folder (all-mpnet-base-v2).")
    ] = None,
    allow_public: Public = False,
    as_json: AsJson = False,
) -> None:
    """Score T-Eval's plan, retrieve and understand, as ToolDev reports them.

    factory eval teval T-Eval/data --embed /models/all-mpnet-base-v2
    """
    from factory.measure import measure_teval
    from factory.recipe import load_settings
    from factory.scorers.teval import tooldev_score

    workspace = open_workspace()
    grades = asyncio.run(
        measure_teval(
            workspace,
            load_settings(workspace),
            folder,
            model,
            embedder=embed,
            allow_public=allow_public,
            notify=err,
        )
    )
    _print_grades(grades, tooldev_score(grades), as_json)


def _print_grades(
    grades: Sequence[Grade], scores: Mapping[str, float | None], as_json: bool
) -> None:
    from factory.scorers.items import mean_grades

    means = mean_grades(grades)
    if as_json:
        items = [asdict(grade) for grade in grades]
        write_json({"categories": means, "averages": scores, "items": items})
        return
    counts = Counter(grade.category for grade in grades)
    rows: list[tuple[object, ...]] = [(c, counts[c], f"{v:.2f}") for c, v in means.items()]
    rows += [(n, "", "incomplete" if v is None else f"{v:.2f}") for n, v in scores.items()]
    print_table(("percent right", "items", "score"), rows)
    reasons = Counter(grade.reason for grade in grades if grade.reason).most_common()
    if reasons:
        out("wrong because  " + ", ".join(f"{count} {escape(reason)}" for reason, count in reasons))

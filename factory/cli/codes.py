"""Codes of tools: stats, show, similar, fit, add, compare."""

from __future__ import annotations

import asyncio
import difflib
import json
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer

from factory.cli.checkpoint import open_checkpoint
from factory.cli.data import fault_finder, report_bad_lines
from factory.cli.monitor import make_monitor
from factory.cli.opening import open_ledger, open_workspace
from factory.cli.recipes import open_recipe
from factory.cli.sql import Json
from factory.cli.terminal import err, escape, out, out_indented, print_table, write_json
from factory.codes.codebook import Codebook, ToolCode
from factory.codes.config import CodeConfig
from factory.codes.gist import GIST_PATH
from factory.codes.growing import add_tools, fit_codebook, unexplained
from factory.codes.install import install
from factory.codes.picture import draw_space
from factory.codes.reader import DocumentReader, load_gist
from factory.codes.saving import FOLDER, load_codebook, save_codebook
from factory.domain.failures import InputError
from factory.domain.monitor import Monitor
from factory.domain.records import Pair, Tool
from factory.engines.loading import copy_processors, make_savable
from factory.engines.turn import turn_of
from factory.lab.trials.compare import Plan, standard_variants
from factory.lab.trials.compare import compare as run_compare
from factory.lab.trials.standings import READ_AS, load_ranking, make_tables, rank
from factory.ledger import history
from factory.ledger.lock import WorkspaceLock
from factory.ledger.rows import tool_rows
from factory.score.rows import code_row
from factory.score.toolbench.data import load_toolbench
from factory.score.toolbench.ranking import BM25, EmbSim, Ranker
from factory.tools.sources import read_tools
from factory.train.curriculum import called_together, code_config, train_config
from factory.workspace.folder import Workspace
from factory.workspace.machine import free_threads
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import load_recipe
from factory.workspace.settings import load_settings

NUM_SHOWN = 5
"""Tools whose neighbours `fit` shows."""
NUM_NEIGHBOURS = 3

Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Model folder; default: as the next round.", show_default=False),
]
ToolName = Annotated[str, typer.Argument(help="A tool's name, its id, or its code.")]


def stats(checkpoint: Checkpoint = None, as_json: Json = False) -> None:
    """Figures of a checkpoint's codes.

    factory codes stats
    """
    codebook = _load(open_checkpoint(checkpoint))
    record = _figures(codebook)
    if as_json:
        write_json(record)
        return
    print_table(("figure", "value"), [(key, _plain(value)) for key, value in record.items()])


def show(tool: ToolName, checkpoint: Checkpoint = None, as_json: Json = False) -> None:
    """One tool: its code, how it came to it, and its document.

    factory codes show find_hotel
    """
    codebook = _load(open_checkpoint(checkpoint))
    for entry in _find(codebook, tool):
        if as_json:
            write_json({**_record(codebook, entry), "document": entry.tool.document})
            continue
        out(f"[bold]{escape(entry.tool.name)}[/]  {escape(entry.tool.id)}")
        out(f"  code  [cyan]{escape(codebook.text_of(entry.code))}[/]")
        far = ", far from all codes: not trained on until codes are made anew" if entry.ood else ""
        out(f"  came to it by {entry.resolved_by}, error {entry.error:.4g}{far}")
        out_indented(json.dumps(entry.tool.document, indent=1, ensure_ascii=False))


def similar(
    tool: ToolName,
    limit: Annotated[int, typer.Option("-k", help="Tools to show.", min=1)] = 10,
    checkpoint: Checkpoint = None,
    as_json: Json = False,
) -> None:
    """Tools whose codes differ in the fewest positions (Hamming distance).

    factory codes similar find_hotel -k 5
    """
    codebook = _load(open_checkpoint(checkpoint))
    first, *more = _find(codebook, tool)
    if more:
        err(f"[yellow]{len(more) + 1} tools have this name[/]; shown is {escape(first.tool.id)}")
    try:
        found = codebook.similar(first.tool.id, limit)
    except ValueError as error:
        raise InputError(str(error), remedy="residual and quantized codes do") from error
    if as_json:
        for entry, distance in found:
            write_json({**_record(codebook, entry), "distance": distance})
        return
    rows = [
        (entry.tool.name, codebook.text_of(entry.code), distance)
        for entry, distance in [(first, 0), *found]
    ]
    print_table(("tool", "code", "differs"), rows)


def fit(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Tool documents; default: those known here.")
    ] = None,
    checkpoint: Checkpoint = None,
    recipe: Annotated[str, typer.Option(help="Recipe; default: factory.toml's.")] = "",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A value, e.g. codes.coder=quantized")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Write the model with these codes there.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Where the picture goes; default: .factory/codes.svg")
    ] = None,
) -> None:
    """Fit codes to tools, and see what they are like before anything is trained on them.

    Nothing is changed. With --out, the model is written with its new code tokens and their first
    rows, as a folder that `model` in factory.toml can name.

    factory codes fit --set codes.coder=quantized

    factory codes fit my_apis.jsonl --set codes.size=64 --out models/coded
    """
    workspace = open_workspace()
    settings = load_settings(workspace)
    resolved = open_recipe(workspace, settings, recipe, overrides)
    config = code_config(resolved.recipe, version=1)
    number = _next_round()
    seed = train_config(resolved.recipe, number, settings.engine.dtype, codebook_version=1).seed
    folder = open_checkpoint(checkpoint)
    if to is not None and to.exists() and any(to.iterdir()):
        raise InputError("the folder is not empty", where=str(to), remedy="name a new one")
    tools, num_bad = _tools(workspace, files, folder)
    if len(tools) < 2:
        raise InputError(
            f"codes are fitted to 2 tools or more, not to {len(tools)}",
            where=", ".join(map(str, files or [])),
            remedy="give more documents, or mend the bad lines: factory codes fit my_apis.jsonl",
        )
    with make_monitor() as monitor:
        model = _Model(workspace, folder, config.embedder, monitor)
        if config.gist is not None:
            reader = model.reader
            monitor.stage("compressing documents")
            reader.compress(tools, config.gist, monitor.stage)
        documents_ND = model.embed(tools)
        # As a first training would do it: tools known come in by their order, a file's by id.
        order = sorted(range(len(tools)), key=lambda row: tools[row].id if files else row)
        tools, documents_ND = [tools[row] for row in order], documents_ND[order]
        monitor.stage(f"fitting {config.coder} codes")
        codebook = fit_codebook(
            tools,
            documents_ND,
            config,
            seed=seed,
            pairs=_pairs(tools, number) if config.coder == "quantized" else (),
            on_progress=monitor.progress,
        )
        if to is not None:
            own = None if config.embedder or not config.reads_documents else documents_ND
            model.write(codebook, own, to, config, seed)
    left = unexplained(codebook, documents_ND)
    record = {**_figures(codebook), "variance left": "-" if left is None else f"{left:.1%}"}
    print_table(("figure", "value"), [(key, _plain(value)) for key, value in record.items()])
    _show_neighbours(codebook)
    target = picture or workspace.state / "codes.svg"
    target.parent.mkdir(parents=True, exist_ok=True)
    labels = [f"{e.tool.name}  {codebook.text_of(e.code)}" for e in codebook.tools]
    title = f"{config.coder} codes of {len(codebook)} tools"
    svg = draw_space(documents_ND, [e.code for e in codebook.tools], labels, title)
    target.write_text(svg, encoding="utf-8")
    out(f"picture  {escape(target)}")
    if to is not None:
        out(f"model    {escape(to)}")
    if num_bad:
        raise typer.Exit(1)


def add(
    files: Annotated[list[Path], typer.Argument(help="JSON lines or JSON arrays.")],
    checkpoint: Checkpoint = None,
) -> None:
    """Give the tools of a file codes in a checkpoint of this workspace, without training.

    They can be retrieved from then on; the next rounds learn their documents by heart
    (train.documents). Nothing that had a code gets another one. `factory add-tools` only notes
    them, for the next training to code and learn.

    factory codes add my_apis.jsonl
    """
    workspace = open_workspace()
    recipe = load_recipe(workspace, load_settings(workspace).recipe, {}).recipe
    code_config(recipe, version=1)  # one that makes no codes would never teach these
    with WorkspaceLock(workspace.state):
        ledger = open_ledger()
        folder = open_checkpoint(checkpoint)
        _refuse_to_change(workspace, folder)
        if history.open_round(ledger) is not None:
            raise InputError(
                "a round is open", remedy="`factory round` continues it, --abandon ends it"
            )
        codebook: Codebook = _load(folder)
        if codebook.coder.name == "atomic":
            raise InputError(
                "an atomic code is a new token, whose row only training can write",
                where=str(folder),
                remedy="factory add-tools FILE",
            )
        tools, num_bad = _tools(workspace, files, folder)
        fresh = [tool for tool in tools if tool.id not in codebook]
        with make_monitor() as monitor:
            model = _Model(workspace, folder, codebook.embedder, monitor)
            if codebook.views:
                model.reader.gist = load_gist(folder, codebook)
            reads = codebook.coder.reads_documents and fresh
            documents_ND = model.embed(fresh) if reads else None
        order = sorted(range(len(fresh)), key=lambda row: fresh[row].id)
        if documents_ND is not None:
            documents_ND = documents_ND[order]
        if fresh:
            grown = add_tools(codebook, [fresh[row] for row in order], documents_ND)
            if grown.full is not None:
                raise grown.full
            codebook = grown.codebook
        added = [codebook.entry_of(tool.id) for tool in fresh]
        # First what may be repeated: stopped anywhere, the command mends itself when run again.
        imported = history.imported_ids(ledger)
        noted = [tool for tool in tools if tool.id not in imported]
        ledger.append({"tool": tool_rows(0, noted, files[0].name)})
        if added:
            model.replace_codes(codebook)
        sql = "select tool_id from tool_code where codebook_version = ?"
        coded = {row[0] for row in ledger.query(sql, [codebook.version]).rows}
        given = {tool.id for tool in tools} - coded
        rows = [code_row(0, codebook, entry) for entry in codebook.tools if entry.tool.id in given]
        ledger.append({"tool_code": rows})
        ledger.fold()
    columns = ("tool", "code", "came to it by", "far")
    print_table(
        columns,
        [
            (e.tool.name, codebook.text_of(e.code), e.resolved_by, "yes" if e.ood else "")
            for e in added
        ],
    )
    err(f"{len(added)} tools coded, {len(tools) - len(fresh)} had codes, {num_bad} bad")
    if num_bad:
        raise typer.Exit(1)


def compare(
    folder: Annotated[Path, typer.Argument(help="Labelled requests and documents, as ToolBench.")],
    to: Annotated[Path, typer.Option("--out", help="Where trials are kept; they are not rerun.")],
    model: Annotated[
        Path | None, typer.Option(help="Model folder without codes; default: factory.toml's.")
    ] = None,
    only: Annotated[str, typer.Option(help="Variants, separated by semicolons; all.")] = "",
    seeds: Annotated[int, typer.Option(help="Trials of each variant.", min=1)] = 3,
    text: Annotated[
        Path | None, typer.Option(help="Plain text whose perplexity is measured.")
    ] = None,
    described: Annotated[
        bool, typer.Option("--described", help="Learn documents' own words as requests too.")
    ] = False,
    recipe: Annotated[str, typer.Option(help="Recipe; default: factory.toml's.")] = "",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A value, e.g. train.epochs=3")
    ] = None,
    as_json: Json = False,
) -> None:
    """Which codes suit these tools? Train and score every coder under one budget.

    Each learns the documents and two thirds of the requests, and is asked the rest, beside BM25 and
    the model's own embeddings. Shown are means and spreads over seeds; --json has the trials too.

    factory codes compare data/toolbench --model /models/Qwen3-0.6B --out /tmp/compare
    """
    workspace = open_workspace()
    settings = load_settings(workspace)
    resolved = open_recipe(workspace, settings, recipe, overrides)
    variants = standard_variants(code_config(resolved.recipe, version=1))
    base = model or workspace.model_folder(settings.model)
    _refuse_codes(base)
    chosen = [name.strip() for name in only.split(";")] if only else list(variants)
    for name in chosen:
        if name not in variants:
            known = "; ".join(variants)
            raise InputError(f"no variant {name!r}", remedy=f"the variants are {known}")
    threads = settings.engine.threads or free_threads()
    plan = Plan(
        model=base,
        bench=load_toolbench(folder),
        text=_read_text(text) if text else "",
        out=to,
        workspace=workspace.root,
        variants=tuple(variants[name] for name in chosen),
        seeds=tuple(range(seeds)),
        described=described,
        train=train_config(resolved.recipe, 0, settings.engine.dtype, 1),
        threads=threads,
    )
    to.mkdir(parents=True, exist_ok=True)
    baselines: list[Ranker] = [
        BM25(),
        EmbSim(folder=base, threads=threads, log=to / "embed.log"),
    ]
    trials, found = asyncio.run(run_compare(plan, baselines, lambda text: err(escape(text))))
    standings = rank(trials, found, load_ranking(workspace))
    if as_json:
        for standing in standings:
            write_json(standing.to_json())
        return
    for table in make_tables(standings):
        out(f"\n[bold]{escape(table.title)}[/]")
        print_table(table.columns, table.rows)
    out()
    for line in READ_AS:
        out(f"[dim]{escape(line)}[/]")


# -- what the commands share ----------------------------------------------------------------------


class _Model:
    """The checkpoint's model, loaded when first asked."""

    def __init__(self, workspace: Workspace, folder: Path, embedder: str, monitor: Monitor) -> None:
        self._workspace, self._folder, self._embedder = workspace, folder, embedder
        self._monitor = monitor

    def embed(self, tools: Sequence[Tool]) -> Any:
        """(N, D) or (N, V, D) embeddings of the tools' documents."""
        reader = self.reader
        self._monitor.stage("embedding documents", len(tools))
        return reader.embed(tools, self._monitor.progress)

    @cached_property
    def reader(self) -> DocumentReader:
        """What embeds them."""

        prompts = Prompts.load(self._workspace)
        if self._embedder:
            named = self._workspace.model_folder(self._embedder)
            return DocumentReader(model=None, tokenizer=None, prompts=prompts, embedder=named)
        return DocumentReader(model=self._model, tokenizer=self._tokenizer, prompts=prompts)

    def write(
        self, codebook: Codebook, documents_ND: Any, to: Path, config: CodeConfig, seed: int
    ) -> None:
        """The model with the codebook's tokens and rows, as a folder of the same precision."""
        from transformers import set_seed

        model, tokenizer = self._model, self._tokenizer
        self._monitor.stage("writing the model")
        set_seed(seed)
        install(codebook, model, tokenizer, documents_ND, reframe=config.reframe)
        model.to(self._stored_dtype).save_pretrained(to)
        tokenizer.save_pretrained(to)
        copy_processors(self._folder, to)
        save_codebook(codebook, to, tokenizer, self._stop())
        self._save_gist(to)

    def _stop(self) -> int | None:
        """The token that follows a code in the model's chat template."""

        return turn_of(self._model, self._tokenizer).stop

    def _save_gist(self, checkpoint: Path) -> None:

        if self.reader.gist is not None:
            self.reader.gist.save(checkpoint / GIST_PATH)

    def replace_codes(self, codebook: Codebook) -> None:
        """The folder's codes, written aside and renamed."""

        aside = self._folder / f"{FOLDER}.new"
        shutil.rmtree(aside, ignore_errors=True)
        save_codebook(codebook, aside, self._tokenizer, self._stop())
        self._save_gist(aside)
        (self._folder / FOLDER).rename(aside / "old")
        (aside / FOLDER).rename(self._folder / FOLDER)
        shutil.rmtree(aside)

    @cached_property
    def _model(self) -> Any:
        """On a GPU in the precision of its files, on the CPU in single precision."""
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        self._monitor.stage("loading the model")
        model = AutoModelForCausalLM.from_pretrained(
            self._folder, dtype="auto", local_files_only=True
        )
        make_savable(model, self._folder)
        self._stored_dtype = model.dtype
        return model.to("cuda") if torch.cuda.is_available() else model.float()

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._folder, local_files_only=True)


def _refuse_codes(folder: Path) -> None:

    if load_codebook(folder) is not None:
        raise InputError(
            "this model has codes already, and each trial gives it others",
            where=str(folder),
            remedy="name a model that no round has trained: --model FOLDER",
        )


def _refuse_to_change(workspace: Workspace, folder: Path) -> None:
    inside = folder.resolve().is_relative_to(workspace.root.resolve())
    if not inside or workspace.root.resolve() / "rounds" in folder.resolve().parents:
        raise InputError(
            "this model is not the workspace's own, so its codes are left as they are",
            where=str(folder),
            remedy="run a round first, or `factory codes fit --out models/coded` and name that",
        )


def _load(folder: Path) -> Codebook:

    codebook = load_codebook(folder)
    if codebook is None:
        raise InputError(
            "this model has no codes yet",
            where=str(folder),
            remedy="a round gives them, or `factory codes fit --out FOLDER`",
        )
    return codebook


def _tools(workspace: Workspace, files: list[Path] | None, folder: Path) -> tuple[list[Tool], int]:
    """The tools of the files, judged, with the number of bad lines; else the known ones."""
    if files:
        read = [read_tools(file, fault_finder(workspace)) for file in files]
        num_bad = sum(report_bad_lines(each.bad) for each in read)
        found = {tool.id: tool for each in read for tool in each.items}
        return list(found.values()), num_bad
    codebook = load_codebook(folder)
    known = [entry.tool for entry in codebook.tools] if codebook is not None else []
    found = {tool.id: tool for tool in (*known, *history.imported_tools(open_ledger()))}
    return list(found.values()), 0


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the text: {error}", where=str(path), remedy="give a file in UTF-8"
        ) from error


def _next_round() -> int:
    """The number of the open round, else that of the one to come."""
    this = history.open_round(open_ledger())
    return this.number if this else history.last_round(open_ledger()) + 1


def _pairs(tools: Sequence[Tool], number: int) -> list[Pair]:
    """Which tools accepted answers call together, as round `number` would be trained."""
    ledger = open_ledger()
    pairs, written = history.called_pairs(ledger, number), history.written_tools(ledger)
    accepted = history.accepted_samples(ledger, number)
    return called_together(pairs, written, accepted, tools, None)


def _find(codebook: Codebook, text: str) -> list[ToolCode]:
    """The tools of a name, an id or a code. Raises InputError with the nearest name."""
    coded = codebook.tool_of(text)
    found = [
        entry
        for entry in codebook.tools
        if text in (entry.tool.name, entry.tool.id) or (coded and coded.id == entry.tool.id)
    ]
    if not found:
        names = sorted({entry.tool.name for entry in codebook.tools})
        near = difflib.get_close_matches(text, names, n=3, cutoff=0.0)
        raise InputError(f"no tool {text!r} has a code", remedy=f"did you mean {', '.join(near)}?")
    return found


def _record(codebook: Codebook, entry: ToolCode) -> dict[str, Any]:
    return {
        "tool_id": entry.tool.id,
        "name": entry.tool.name,
        "code": codebook.text_of(entry.code),
        "resolved_by": entry.resolved_by,
        "error": entry.error,
        "ood": entry.ood,
    }


def _figures(codebook: Codebook) -> dict[str, Any]:
    report, sizes = codebook.report, codebook.coder.sizes
    return {
        "coder": codebook.coder.name,
        "version": codebook.version,
        "tools": len(codebook),
        "positions": len(sizes),
        "numbers a position": max(sizes, default=0),
        "collisions before": report.collisions_before,
        "collisions after": len(codebook) - len({entry.code for entry in codebook.tools}),
        "moved": report.moved,
        "mean penalty": round(report.penalty, 4),
        "entropy, bits": [round(bits, 2) for bits in report.usage_entropy],
        "far from all codes": len(codebook.outliers),
        "on their nearest code": f"{report.reencoded:.1%}",
        "trainings since the fit": report.age,
    }


def _plain(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _show_neighbours(codebook: Codebook) -> None:
    """A few tools with those whose codes are nearest, for a person to judge."""
    if not codebook.coder.reads_documents:
        return
    step = max(1, len(codebook) // NUM_SHOWN)
    rows = []
    for entry in codebook.tools[::step][:NUM_SHOWN]:
        near = codebook.similar(entry.tool.id, NUM_NEIGHBOURS)
        names = ", ".join(f"{other.tool.name} ({distance})" for other, distance in near)
        rows.append((entry.tool.name, codebook.text_of(entry.code), names))
    print_table(("tool", "code", "nearest by positions that differ"), rows, width=120)

"""Every tokenisation of the four papers on StableToolBench, one small model, one budget.

    python -m bench.compare --data ../shared/data --sets metatool --epochs 8
    python -m bench.compare --data ../shared/data --sets toolbench --described --epochs 8
    python -m bench.compare --sets metatool pairs --epochs 8 --only "quantized;quantized, no graph"

Documents and labelled requests of the named sets; a third of each split's requests is kept aside
and scored: how the papers measure is `factory codes compare` with a training split. `toolbench` is
StableToolBench, `metatool` MetaTool's requests for one tool, `pairs` its requests for two. The
model is made from scratch on the documents' words, so the ranking is one of codes for such a model;
published figures of an 8 B model stand beside it.
StableToolBench has few labelled requests for its 2,479 tools: with `--described` each tool's own
words are learnt as a request too. Trials are kept in `--out`; the same ones are not run again.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.backbone import Size, make_backbone
from bench.table import print_machine, print_table
from factory.lab.trials.compare import Plan, compare
from factory.lab.trials.division import divide
from factory.lab.trials.labels import Labels
from factory.lab.trials.standings import READ_AS, load_ranking, make_tables, rank
from factory.lab.trials.variants import choose_variants
from factory.score.toolbench.data import (
    ApiDocument,
    ApiKey,
    ToolBench,
    ToolQuery,
    load_toolbench,
    read_document,
)
from factory.score.toolbench.ranking import BM25, EmbSim
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.recipe import (
    CodesSection,
    GistSection,
    QuantizedSection,
    Recipe,
    TrainSection,
)

SETS = ("toolbench", "metatool", "pairs")


def read_metatool(folder: Path) -> list[ApiDocument]:
    """MetaTool's 199 tools."""
    told = json.loads((folder / "dataset" / "plugin_des.json").read_text(encoding="utf-8"))
    return [
        read_document(
            {"tool_name": name, "api_name": name, "api_description": text}, f"plugin_des:{name}"
        )
        for name, text in told.items()
    ]


def read_requests(folder: Path, limit: int) -> list[ToolQuery]:
    """MetaTool's requests for one tool, every n-th, `limit` at most."""
    known = {document.key.tool for document in read_metatool(folder)}
    path = folder / "dataset" / "data" / "all_clean_data.csv"
    with path.open(encoding="utf-8") as file:
        rows = [row for row in enumerate(csv.DictReader(file)) if row[1]["Tool"] in known]
    return [
        make_query("MetaTool", number, row["Query"], [(row["Tool"], row["Tool"])])
        for number, row in rows[:: max(1, len(rows) // limit)][:limit]
    ]


def read_pairs(folder: Path) -> list[ToolQuery]:
    """MetaTool's requests for two tools: which ones go together shows in them alone."""
    path = folder / "dataset" / "data" / "multi_tool_query_golden.json"
    return [
        make_query("pairs", number, row["query"], [(name, name) for name in row["tool"]])
        for number, row in enumerate(json.loads(path.read_text(encoding="utf-8")))
    ]


def make_query(split: str, number: int, text: str, tools: Sequence[tuple[str, str]]) -> ToolQuery:
    """A request, and the (tool, API) pairs that answer it."""
    relevant = frozenset(ApiKey(*tool) for tool in tools)
    return ToolQuery(id=f"{split}/{number}", split=split, text=text, relevant=relevant)


def read_bench(data: Path, sets: Sequence[str], limit: int) -> ToolBench:
    """The sets as one benchmark; `limit` bounds the requests of `metatool`."""
    bench = ToolBench(queries=(), documents={}, domains={})
    if "toolbench" in sets:
        bench = load_toolbench(data / "stabletoolbench")
    documents: list[ApiDocument] = []
    queries: list[ToolQuery] = []
    if {"metatool", "pairs"} & {*sets}:
        documents += read_metatool(data / "metatool")
    if "metatool" in sets:
        queries += read_requests(data / "metatool", limit)
    if "pairs" in sets:
        queries += read_pairs(data / "metatool")
    joined = {**bench.documents, **{document.key: (document,) for document in documents}}
    return replace(bench, queries=(*bench.queries, *queries), documents=joined)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["toolbench", "metatool"])
    parser.add_argument("--out", type=Path, default=Path(".factory/compare"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--described", action="store_true", help="documents' words as requests")
    parser.add_argument("--requests", type=int, default=2000, help="of metatool, at most")
    parser.add_argument("--steps", type=int, default=300, help="of making the model")
    parser.add_argument("--gist-epochs", type=int, default=10, help="of compression, at most")
    parser.add_argument("--held-out-tools", type=float, default=0.0, help="share, coded afterwards")
    parser.add_argument("--only", default="", help="variants, separated by semicolons")
    options = parser.parse_args()
    print_machine("torch", "trl", "scikit-learn")
    bench = read_bench(options.data, options.sets, options.requests)
    labelled = divide(Labels(bench=bench), held_out_tools=options.held_out_tools)
    words = [
        *(document.text[:600] for several in bench.documents.values() for document in several),
        *(query.text for query in labelled.learnt),
    ]
    model = options.out / "model"
    if not (model / "tokenizer.json").exists():
        make_backbone(model, words, Size(steps=options.steps))
    recipe = Recipe(
        codes=CodesSection(
            size=64,
            levels=3,
            gist=GistSection(rank=8, alpha=32, epochs=options.gist_epochs, learning_rate=2e-3),
            quantized=QuantizedSection(hidden=(128,), latent=32, epochs=200),
        ),
        train=TrainSection(
            method="full",
            learning_rate=1e-3,
            epochs=options.epochs,
            batch_size=16,
            micro_batch_size=4,  # documents differ much in length: fewer at once, less padding
            max_length=512,
            code_share=0.0,
        ),
    )
    chosen = options.only.split(";") if options.only else ()
    plan = Plan(
        model=model,
        labelled=labelled,
        text="\n\n".join(query.text for query in labelled.asked.queries),
        out=options.out,
        workspace=shipped_root(),
        variants=tuple(choose_variants(recipe, chosen)),
        seeds=tuple(options.seeds),
        described=options.described,
    )
    own = EmbSim(folder=model, threads=1, log=options.out / "embed.log")
    outcome = asyncio.run(compare(plan, [BM25(), own], lambda text: print(text, flush=True)))
    print(f"{len(labelled.tools)} tools, {len(labelled.learnt)} requests learnt,", end=" ")
    print(f"{len(labelled.asked.queries)} asked")
    standings = rank(outcome, load_ranking(Workspace(shipped_root())))
    for table in make_tables(standings, labelled, standings[0]):
        print_table(*table)
    print("", *READ_AS, sep="\n")


if __name__ == "__main__":
    main()

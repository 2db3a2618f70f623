"""Every tokenisation of the four papers on StableToolBench, one small model, one budget.

    python -m bench.compare --data ../shared/data --sets metatool --epochs 8
    python -m bench.compare --data ../shared/data --sets toolbench metatool --epochs 2

Documents and labelled requests of StableToolBench, MetaTool or both; a third of each split's
requests is kept aside and scored. The model is made from scratch on the documents' words, so the
ranking is one of codes for such a model; published figures of an 8 B model stand beside it.
StableToolBench has few labelled requests for its 2,479 tools: such a model learns little from them
in a few passes. Trials are kept in `--out` and not run again.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.backbone import Size, make_backbone
from bench.table import print_machine, print_table
from factory.codes.gist import GistConfig
from factory.codes.lifecycle import CodeConfig
from factory.codes.quantized import QuantizedConfig
from factory.compare import Plan, Trial, compare, divide, standard_variants
from factory.scorers.retrieval import BM25, EmbSim, RetrievalResult, Retriever
from factory.scorers.toolbench import (
    ApiDocument,
    ApiKey,
    ToolBench,
    ToolQuery,
    load_toolbench,
    read_document,
)
from factory.train import TrainConfig
from factory.workspace import shipped_root

PUBLISHED = {
    "numeric": 76.50,
    "hierarchical": 81.33,
    "semantic": 86.17,
    "atomic": 84.50,
    "residual": 90.83,
}
"""NDCG@1, mean of I1, I2 and I3, multi-domain, Llama-3-8B (SGTC, Table 3; the cells of Numerical
read in the consistent order)."""


def read_metatool(folder: Path) -> tuple[list[ApiDocument], list[ToolQuery]]:
    """MetaTool's tools and its requests for one tool each."""
    told = json.loads((folder / "dataset" / "plugin_des.json").read_text(encoding="utf-8"))
    documents = [
        read_document(
            {"tool_name": name, "api_name": name, "api_description": text}, f"plugin_des:{name}"
        )
        for name, text in told.items()
    ]
    known = {document.key for document in documents}
    queries = []
    with (folder / "dataset" / "data" / "all_clean_data.csv").open(encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file)):
            key = ApiKey(row["Tool"], row["Tool"])
            if key in known:
                queries.append(
                    ToolQuery(
                        id=f"MetaTool/{number}",
                        split="MetaTool",
                        text=row["Query"],
                        relevant=frozenset({key}),
                    )
                )
    return documents, queries


def read_bench(data: Path, sets: Sequence[str], limit: int) -> ToolBench:
    """The sets as one; of MetaTool's requests every n-th, `limit` at most."""
    bench = load_toolbench(data / "stabletoolbench")
    if "toolbench" not in sets:
        bench = replace(bench, queries=(), documents={})
    if "metatool" not in sets:
        return bench
    documents, queries = read_metatool(data / "metatool")
    queries = queries[:: max(1, len(queries) // limit)][:limit]
    joined = {**bench.documents, **{document.key: (document,) for document in documents}}
    return replace(bench, queries=(*bench.queries, *queries), documents=joined)


def mean_and_spread(values: Sequence[float]) -> str:
    """`71.3 ±0.8`: mean and standard deviation over seeds."""
    return f"{np.mean(values):.1f} ±{np.std(values):.1f}"


def show(trials: Sequence[Trial], baselines: Sequence[RetrievalResult]) -> None:
    """The two tables: retrieval, and what the codes are and cost."""
    groups: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[trial.variant].append(trial)
    metrics = ("ndcg@1", "ndcg@3", "ndcg@5", "ndcg_hits@3", "ndcg_hits@5")

    def cells(tables: Sequence[Mapping[str, Mapping[str, float]]], split: str) -> list[str]:
        return [mean_and_spread([table[split][metric] for table in tables]) for metric in metrics]

    for split in ("toolbench", "MetaTool"):
        if split not in with_toolbench(trials[0].values):
            continue
        rows: list[tuple[str | float | None, ...]] = []
        for name, tried in groups.items():
            tables = [with_toolbench(trial.values) for trial in tried]
            rows.append((name, *cells(tables, split), PUBLISHED.get(name)))
        for baseline in baselines:
            rows.append((baseline.system, *cells([with_toolbench(baseline.table())], split), None))
        title = f"held-out requests of {split}, percent, mean ±sd over {len(tables)} seeds"
        print_table(title, ("codes", *metrics, "published NDCG@1"), rows)
    print_table(
        "what the codes are and cost",
        ("codes", "new tokens", "length", "longest", "collisions", "moved", "text ppl", "after"),
        [
            (
                name,
                tried[0].codes["new_tokens"],
                tried[0].codes["mean_length"],
                tried[0].codes["longest"],
                mean_and_spread([trial.codes["collisions_before"] for trial in tried]),
                mean_and_spread([trial.codes["moved"] for trial in tried]),
                tried[0].perplexity[0] if tried[0].perplexity else None,
                mean_and_spread([trial.perplexity[1] for trial in tried if trial.perplexity]),
            )
            for name, tried in groups.items()
        ],
    )


def with_toolbench(
    table: Mapping[str, Mapping[str, float]],
) -> dict[str, Mapping[str, float]]:
    """The table with the mean of ToolBench's splits as `toolbench`."""
    splits = [row for name, row in table.items() if name not in ("MetaTool", "mean")]
    if not splits:
        return dict(table)
    mean = {metric: float(np.mean([row[metric] for row in splits])) for metric in splits[0]}
    return {**table, "toolbench": mean}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=["toolbench", "metatool"])
    parser.add_argument("--out", type=Path, default=Path(".factory/compare"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--requests", type=int, default=2000, help="of MetaTool, at most")
    parser.add_argument("--steps", type=int, default=300, help="of making the model")
    parser.add_argument("--only", default="", help="variants, separated by semicolons")
    options = parser.parse_args()
    print_machine("torch", "trl", "scikit-learn")
    bench = read_bench(options.data, options.sets, options.requests)
    labelled = divide(bench, 1 / 3)
    words = [
        *(document.text[:600] for several in bench.documents.values() for document in several),
        *(query.text for query in labelled.learnt),
    ]
    model = options.out / "model"
    if not (model / "tokenizer.json").exists():
        make_backbone(model, words, Size(steps=options.steps))
    variants = standard_variants(
        CodeConfig(
            size=64,
            levels=3,
            gist=GistConfig(views=2, rank=8, alpha=32, epochs=1, learning_rate=2e-3),
            quantized=QuantizedConfig(hidden=(128,), latent=32, epochs=200),
        )
    )
    chosen = options.only.split(";") if options.only else list(variants)
    plan = Plan(
        model=model,
        bench=bench,
        text="\n\n".join(query.text for query in labelled.asked.queries),
        out=options.out,
        workspace=shipped_root(),
        variants=tuple(variants[name] for name in chosen),
        seeds=tuple(options.seeds),
        train=TrainConfig(
            method="full",
            learning_rate=1e-3,
            epochs=options.epochs,
            batch_size=16,
            micro_batch_size=4,  # documents differ much in length: fewer at once, less padding
            max_length=512,
            code_share=0.0,
        ),
    )
    log = options.out / "embed.log"
    baselines: list[Retriever] = [BM25(), EmbSim(folder=model, threads=1, log=log)]
    trials, found = asyncio.run(compare(plan, baselines, lambda text: print(text, flush=True)))
    print(f"{len(labelled.tools)} tools, {len(labelled.learnt)} requests learnt,", end=" ")
    print(f"{len(labelled.asked.queries)} asked")
    show(trials, found)


if __name__ == "__main__":
    main()

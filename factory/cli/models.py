"""Model folders made of other files: model import."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from factory.cli.terminal import err, escape, note, out
from factory.engines.importing import ImportedModel, WeightType, find_gguf, import_gguf


def import_model(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="A .gguf file, or smollm2 for an installed one.")
    ],
    folder: Annotated[Path, typer.Argument(help="Where the model goes; it must not exist yet.")],
    dtype: Annotated[WeightType, typer.Option(help="Of the weights.")] = "bfloat16",
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
) -> None:
    """Make a model folder of a GGUF file, and check its tokens, chat template and end of turn.

    factory model import smollm2 ~/models/smollm2

    factory model import Qwen2.5-7B-Instruct-Q8_0.gguf ~/models/qwen --dtype float16
    """
    file = find_gguf(source)
    folder = folder.expanduser().absolute()
    err(f"reading {escape(file.name)}, {file.stat().st_size / 2**20:.0f} MiB")
    _print(asyncio.run(import_gguf(file, folder, dtype=dtype, threads=threads)), dtype)
    out(f"wrote     {escape(folder)}")


def _print(model: ImportedModel, dtype: WeightType) -> None:
    head = "head tied to the embeddings" if model.tied else "head of its own"
    out(
        f"model     {model.architecture}, {model.num_weights / 1e6:.1f} million weights, "
        f"{model.layers} layers of {model.width}, {head}"
    )
    out(f"weights   {', '.join(model.stored_as)} → {dtype}")
    ends = escape(" ".join(model.ends))
    out(f"tokens    {model.tokens} of {model.rows} rows; an answer ends with {ends}")
    out(f"language  perplexity {model.perplexity:.4g} of plain English")
    if model.license:
        out(f"licence   {escape(model.license)}, as the file says")
    for text in model.notes:
        note(text)

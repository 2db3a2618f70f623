"""Codes of a checkpoint's tools, read: codes stats, show, similar."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from factory.cli.chosen import open_checkpoint
from factory.cli.sql import Json
from factory.cli.terminal import err, escape, out, out_indented, print_table, write_json
from factory.codes.codebook import Codebook, ToolCode
from factory.deploy.arriving import load_codes
from factory.domain.failures import InputError
from factory.train.preview import advise, describe

Checkpoint = Annotated[
    str,
    typer.Option(help="Id (r2) or model folder; default: the best so far.", show_default=False),
]
ToolName = Annotated[str, typer.Argument(help="A tool's name, its id, or its code.")]


def stats(checkpoint: Checkpoint = "", as_json: Json = False) -> None:
    """Figures of a checkpoint's codes.

    factory codes stats
    """
    codebook = load_codes(open_checkpoint(checkpoint))
    if as_json:
        write_json(describe(codebook) | {"advice": advise(codebook)})
    else:
        print_figures(describe(codebook))
        print_advice(advise(codebook))


def show(tool: ToolName, checkpoint: Checkpoint = "", as_json: Json = False) -> None:
    """One tool: its code, how it came to it, and its document.

    factory codes show find_hotel
    """
    codebook = load_codes(open_checkpoint(checkpoint))
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
    checkpoint: Checkpoint = "",
    as_json: Json = False,
) -> None:
    """Tools whose codes differ in the fewest positions (Hamming distance).

    factory codes similar find_hotel -k 5
    """
    codebook = load_codes(open_checkpoint(checkpoint))
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


def print_figures(figures: dict[str, Any]) -> None:
    rows = [
        (name, " ".join(map(str, value)) if isinstance(value, list) else value)
        for name, value in figures.items()
    ]
    print_table(("figure", "value"), rows)


def print_advice(advice: Sequence[str]) -> None:
    for line in advice:
        out(f"[yellow]note[/] {escape(line)}")


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

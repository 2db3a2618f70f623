"""`factory home`: rows of the home world, in a file like a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.cli.terminal import escape, out
from factory.domain.canon import to_json
from factory.domain.failures import InputError
from factory.lab.home.labelled import labelled_rows


def write_rows(
    file: Annotated[Path, typer.Argument(help="Where the rows go, one a line; a new file.")],
    requests: Annotated[int, typer.Option(help="Requests with tools and calls.", min=0)] = 200,
    documents: Annotated[int, typer.Option(help="Tool documents, 400 at most.", min=0)] = 50,
    seed: Annotated[int, typer.Option(help="Other rows.")] = 0,
) -> None:
    """Write labelled requests and tool documents of the home world, to teach or to try.

    factory home rows.jsonl --requests 200
    """
    try:
        lines = [to_json(row) + "\n" for row in labelled_rows(requests, documents, seed)]
    except ValueError as error:
        raise InputError(str(error), remedy="ask for fewer: --documents") from error
    try:
        with file.open("x", encoding="utf-8") as out_file:
            out_file.writelines(lines)
    except FileExistsError as error:
        raise InputError(
            "the file exists already", where=str(file), remedy="name a new one, or remove it"
        ) from error
    out(f"{escape(file)}: {requests} requests, {documents} documents")

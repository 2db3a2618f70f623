"""The `factory` command: groups of commands, one boundary for all failures.

Exit codes: 0 done, 1 a gate or rule failed, 2 wrong input, 3 environment, 4 our bug.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib import metadata
from io import TextIOWrapper
from typing import Annotated

import typer
from typer.exceptions import TyperException

from factory.cli.commands import CommandTable
from factory.cli.terminal import err, escape
from factory.domain.disk import disk_remedy
from factory.domain.failures import DiskError, EnvironmentError_, FactoryError

app = typer.Typer(
    name="factory",
    cls=CommandTable,
    help="Make your own model good at calling tools: one command a round, everything local.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    context.ensure_object(dict)["debug"] = debug


DISK_FAULTS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOENT, errno.ENOTDIR),
)
"""System errors that the machine's owner can mend."""
BROKEN_PIPE_CODE = 141
"""What a shell reports of a program whose reader went away."""


def check_import_name() -> None:
    """Raise EnvironmentError_ where factory_boy shares the import name: files of both would mix."""
    for name in ("factory_boy", "factory-boy"):
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        raise EnvironmentError_(
            "factory_boy is installed here, and both packages are imported as `factory`",
            where=sys.prefix,
            remedy="pip uninstall factory_boy, or give tool-factory an environment of its own",
        )


def call() -> int:
    """Run the command line; its exit code."""
    session = {"debug": False}  # click's context carries it as `obj`
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what its encoding lacks is written as an escape
            stream.reconfigure(errors="backslashreplace")
    try:
        check_import_name()
        code = app(standalone_mode=False, obj=session)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):
        # typer and rich answer a broken pipe with SystemExit; nothing else here raises it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return BROKEN_PIPE_CODE
    except FactoryError as error:
        print_failure(error)
        return error.exit_code
    except TyperException as error:
        print_usage(error)
        return 2
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except Exception as error:
        if str(error) == "Query interrupted":  # Ctrl-C, as DuckDB passes it on
            raise KeyboardInterrupt from error
        if session["debug"]:
            raise
        return print_unexpected(error)
    return code if isinstance(code, int) else 0


def print_unexpected(error: Exception) -> int:
    """Print what no part of the factory expected; its exit code."""
    if isinstance(error, OSError) and error.errno in DISK_FAULTS:
        failure = explain_disk(error)
        print_failure(failure)
        return failure.exit_code
    err(f"[bold red]our bug:[/] {type(error).__name__}: {escape(str(error))}")
    err("[dim]run it again with `factory --debug …` and report the traceback[/]")
    return 4


def explain_disk(error: OSError) -> DiskError:
    """A system error about a file, as a failure with its remedy."""
    return DiskError(
        f"the system refuses: {error.strerror}",
        where=str(error.filename or ""),
        remedy=f"{disk_remedy(error)}; what was finished before is kept",
    )


def print_usage(error: TyperException) -> None:
    show = getattr(error, "show", None)
    if show is None:
        err(escape(error))
    else:
        show()


def print_failure(error: FactoryError) -> None:
    err(f"[bold red]error:[/] {escape(error.what)}")
    if error.where:
        err(f"  [dim]where:[/]  {escape(error.where)}")
    if error.remedy:
        err(f"  [dim]remedy:[/] [green]{escape(error.remedy)}[/]")

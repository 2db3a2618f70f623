"""The table of commands: where each is listed, what runs it, and its line of help.

A command's module is imported when the command is called: it imports what it needs at its top, and
`factory --help` needs none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class Entry(NamedTuple):
    """A command of the table."""

    function: str
    """`module:function`, the module one of factory.cli."""
    help: str
    """The first paragraph of the function's docstring."""


_TABLE = """
Make
  round = rounds:make_round
    Run one round: sample, vote, judge, train, score, gate. Continues an open one.
  teach = teach:teach
    Teach labelled rows and tool documents: judge, train, score, gate. Continues an open lesson.
  ablate = ablation:run_ablation
    What does each part do? Run a plan's variants from one parent, scored after each step.
  seed = seed:seed
    Train the embedded model from scratch on the home world; an hour or two on a CPU.
  score = score:score
    Score a checkpoint on a benchmark of any kind, with intervals and published rows beside.
  serve = serve:serve
    Serve a checkpoint behind OpenAI's API, by vLLM's own server, until Ctrl-C.
  eval new = evaluation:new
    Make a benchmark of labelled requests, which no round then trains on.
  eval list = evaluation:list_benchmarks
    List the benchmarks of eval/ with their kind, and what each lacks before it can be scored.

Ask
  sql = sql:sql
    Query the ledger with SQL, read-only, also while a round runs.
  rejects = rejects:rejects
    Why samples fell: counts by reason with an example each, or the samples one by one.
  show = show:show
    One sample, whole: query, tools, codes, the answers side by side, the vote, the verdicts.
  status = status:status
    Rounds so far: yield, scores and loss with their course, and what is running.
  report = report:report
    Write a round as one HTML page, and one over all rounds beside it; prints the path.
  export = export:export
    Write accepted samples for TRL, OpenAI, ShareGPT or xLAM, or losing answers for DPO; a model.
  check = judging:check
    Judge a round's stored answers again with today's rules; no model is asked.
  retrieve = retrieve:retrieve
    Find the tools a checkpoint names for a request, most likely first, with their codes.
  codes stats = codes:stats
    Figures of a checkpoint's codes.
  codes show = codes:show
    One tool: its code, how it came to it, and its document.
  codes similar = codes:similar
    Tools whose codes differ in the fewest positions (Hamming distance).
  codes fit = coding:fit
    Fit codes to tools, and see what they are like before anything is trained on them.
  codes add = coding:add
    Give the tools of a file codes in a checkpoint of this workspace, without training.
  codes requests = requests:requests
    Have a model write requests for tools, from their documents.
  codes compare = comparing:compare
    Which codes suit these tools? Train and score every coder under one budget.

Prepare
  add-tools = data:add_tools
    Import tool documents: OpenAPI, MCP, OpenAI, BFCL, ToolBench and similar formats.
  model import = models:import_model
    Make a model folder of a GGUF file, and check its tokens, chat template and end of turn.
  home = home:write_rows
    Write labelled requests and tool documents of the home world, to teach or to try.
  init = content:init
    Make a workspace: settings, .gitignore and folders for your own files.
  doctor = doctor:doctor
    Check everything that a round needs, and say how to mend what is missing.
  rules = rules:rules
    List the rules with severity, file and why; --test runs the cases beside them.
  backup = backup:backup
    Copy the workspace; a round that runs in it goes on, and can go on in the copy.
  bundle = bundle:bundle
    Copy the checkout and the wheels of its pins, to install where there is no network.
  prune = prune:prune
    Remove checkpoints that nothing needs: neither the best, nor a parent, nor named.
  eject = content:eject
    Copy one shipped file into the workspace, to edit it.
  diff = content:diff
    Show how your copy of a file differs from the shipped one.
"""
GROUPS = {
    "eval": "List the benchmarks; make one of your own.",
    "model": "Model folders of other files.",
    "codes": "Codes of tools: look at them, try other ones, give new tools theirs.",
}
"""Each group's line of help."""


def _read_table() -> dict[str, dict[str, Entry]]:
    """A paragraph a panel: below its name two lines a command, what runs it and its help."""
    panels: dict[str, dict[str, Entry]] = {}
    for paragraph in _TABLE.strip().split("\n\n"):
        panel, *lines = map(str.strip, paragraph.splitlines())
        heads = (line.split(" = ") for line in lines[::2])
        helps = zip(heads, lines[1::2], strict=True)
        panels[panel] = {name: Entry(function, text) for (name, function), text in helps}
    return panels


PANELS = _read_table()
"""By panel of `factory --help` and by name; the first of two words is a group's."""
COMMANDS = {name: entry for panel in PANELS.values() for name, entry in panel.items()}


def load(name: str, entry: Entry) -> TyperCommand:
    """A command with its options, for which its module is imported."""
    module, function = entry.function.split(":")
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
    alone.command(name)(getattr(import_module(f"factory.cli.{module}"), function))
    command = typer.main.get_command(alone)
    assert isinstance(command, TyperCommand)
    return command


class Listed(TyperCommand):
    """A command as the help of its group lists it; it is loaded once it is called."""

    def __init__(self, name: str, entry: Entry, panel: str | None) -> None:
        super().__init__(name, help=entry.help, rich_help_panel=panel)
        self._entry = entry

    def make_context(self, *args: Any, **settings: Any) -> Any:
        """The context of the loaded command, which then parses, prints its help and runs."""
        assert self.name
        return load(self.name, self._entry).make_context(*args, **settings)


class CommandTable(TyperGroup):
    """The group of all commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for panel, commands in PANELS.items():
            for name, entry in commands.items():
                self._list(name, entry, panel)

    def _list(self, name: str, entry: Entry, panel: str) -> None:
        first, _, second = name.partition(" ")
        if not second:
            self.add_command(Listed(first, entry, panel))
            return
        group = self.commands.setdefault(
            first,
            TyperGroup(name=first, help=GROUPS[first], rich_help_panel=panel, no_args_is_help=True),
        )
        assert isinstance(group, TyperGroup)
        group.add_command(Listed(second, entry, None))

"""README and docs: what they show is run, and nothing that a user can name is left out of them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import duckdb
import pytest
from pages import BLOCKS, COMMAND_LANGUAGES, FENCE, TEXTS, make_shell, pages_that_run, run_blocks
from pydantic import BaseModel
from workspaces import ROOT, make_workspace

from factory.cli.commands import COMMANDS, load
from factory.codes.config import CODERS
from factory.domain.records import ExampleKind
from factory.judge.rulebook import Rule, Rulebook
from factory.lab.ablation.plan import AblationBenchmark, AblationPlan, AblationVariant
from factory.ledger.schema import define_views, load_migrations
from factory.report.export import Format
from factory.score.definition import Definition
from factory.score.loading import KINDS, defined
from factory.tools.dialects import DIALECTS
from factory.workspace.folder import Workspace
from factory.workspace.recipe import Recipe, StageSection
from factory.workspace.settings import Settings

NEEDS = {"data", "gpu", "model", "network", "time"}
"""What a block may need that a test does not have."""


def test_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 200


def test_every_mark_is_one_that_the_tests_know() -> None:
    for block in (block for blocks in BLOCKS.values() for block in blocks):
        marks = dict(block.marks)
        assert marks.pop("needs", "time") in NEEDS, block.where
        assert marks.pop("after", "round") == "round", block.where
        assert marks.pop("output", "varies") == "varies", block.where
        assert marks.pop("exit", "0").isdigit(), block.where
        assert marks.keys() <= {"file", "append"}, block.where
        if block.marks.keys() & {"needs", "after", "output", "exit"}:
            assert block.language in COMMAND_LANGUAGES, block.where


def test_links_lead_somewhere() -> None:
    for page, text in TEXTS.items():
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", FENCE.sub("", text)):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_paths_that_are_named_exist() -> None:
    """In the plan of the house, and in what CONTRIBUTING says to open."""
    for page in ("docs/how-it-works.md", "CONTRIBUTING.md"):
        text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
        for path in re.findall(r"`([a-z_]+/[\w*./-]+\.(?:py|sql|toml|md))`", text):
            if "NAME" not in path:
                found = [*ROOT.glob(path), *(ROOT / "factory").glob(path)]
                assert found, f"{page}: {path}"


# -- commands that are shown --------------------------------------------------------------------


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_shell(tmp_path_factory.mktemp("bin"))


@pytest.mark.parametrize("page", pages_that_run(None))
def test_commands_do_what_a_page_shows(page: str, tmp_path: Path, shell: dict[str, str]) -> None:
    run_blocks(page, None, make_workspace(tmp_path / "ws").root, shell)


class Shown(NamedTuple):
    """A call of `factory` that a page shows."""

    where: str
    words: list[str]


def shown_calls() -> Iterator[Shown]:
    """Of blocks, and of the running text."""
    for page, text in TEXTS.items():
        for block in (block for block in BLOCKS[page] if block.language in COMMAND_LANGUAGES):
            for command, _ in block.commands():
                for line in command.replace("\\\n", " ").splitlines():
                    for call in re.findall(r"factory (?!&&)[^&|]+", line):
                        yield Shown(block.where, shlex.split(call, comments=True)[1:])
        for call in re.findall(r"`factory ([a-z][^`…]*)", FENCE.sub("", text)):
            yield Shown(page, shlex.split(call))


def test_every_command_that_is_shown_exists_with_its_options() -> None:
    calls = [call for call in shown_calls() if call.words and call.words[0].islower()]
    assert len(calls) > 100
    for where, words in calls:
        name = next((n for n in (" ".join(words[:2]), words[0]) if n in COMMANDS), "")
        groups = {command.split()[0] for command in COMMANDS if " " in command}
        assert name or words[0] in groups, f"{where}: factory {' '.join(words)}"
        given = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert not name or given <= options_of(name), f"{where}: factory {' '.join(words)}"


def options_of(name: str) -> set[str]:
    parameters = load(name, COMMANDS[name]).params
    return {option for each in parameters for option in each.opts if option.startswith("-")}


# -- nothing is left out ------------------------------------------------------------------------


def rows_of(page: str) -> list[list[str]]:
    """Cells of the page's tables."""
    lines = (line for line in FENCE.sub("", TEXTS[page]).splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def names_in(page: str) -> set[str]:
    """What stands in code type in the first cells of the page's tables."""
    return {name for row in rows_of(page) for name in re.findall(r"`([^`]+)`", row[0])}


def sections_of(page: str) -> dict[str, str]:
    """Text below each heading of the third level."""
    parts = re.split(r"^##+ (.+)$", TEXTS[page], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_line_and_a_page_that_names_its_options(name: str) -> None:
    (row,) = (row for row in rows_of("docs/README.md") if row[0] == f"`factory {name}`")
    pages = [TEXTS[f"docs/{target}"] for target in re.findall(r"\]\(([a-z-]+\.md)\)", row[2])]
    assert pages and all(f"factory {name}" in text for text in pages)
    quiet = {"--help", "--json"}
    missing = [o for o in options_of(name) - quiet if not any(f"`{o}" in text for text in pages)]
    assert not missing


def leaves_of(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys with their defaults."""
    for key, value in section:
        if isinstance(value, BaseModel):
            yield from leaves_of(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize(
    ("page", "section"),
    [("docs/recipes-and-papers.md", Recipe()), ("docs/your-model.md", Settings())],
    ids=["recipe", "factory.toml"],
)
def test_every_key_has_a_line_with_its_default(page: str, section: BaseModel) -> None:
    rows = {row[0]: row for row in rows_of(page)}
    if isinstance(section, Recipe):
        assert rows.keys() >= {f"`stage.{key}`" for key in StageSection.model_fields}
    for key, default in leaves_of(section):
        assert rows[f"`{key}`"][1] == f"`{json.dumps(default)}`", key
        assert rows[f"`{key}`"][2], key


def test_every_plan_has_a_section_and_every_key_of_one_a_line() -> None:
    page = "docs/reproduce.md"
    sections = sections_of(page)
    for plan in (ROOT / "plans").glob("*.toml"):
        (text,) = (text for title, text in sections.items() if title.startswith(f"{plan.stem}:"))
        assert all(word in text for word in ("**Bring**", "**Time**", "**Differs**")), plan
        assert f"factory ablate {plan.stem} --out" in text
    rows = {row[0]: row for row in reversed(rows_of(page))}  # a variant's keys come later
    for key, field in AblationPlan.model_fields.items():
        shown = rows[f"`{key}`"][1]
        if field.is_required() or key in ("benchmark", "variant"):
            assert not shown, key
        else:
            default = field.get_default(call_default_factory=True)
            assert shown == f"`{json.dumps(default)}`", key
    named = names_in(page)
    assert named >= {*AblationBenchmark.model_fields, *AblationVariant.model_fields}


def line_of(rule: Rule) -> list[str]:
    """A rule's cells; what only its file cites is left out, and tags are code."""
    why = re.sub(r" \([^()]*algorithms [^()]*\)", "", rule.why)
    why = re.sub(r"(</?\w+>)", r"`\1`", why)
    return [f"`{rule.id}`", f"`{rule.reason}`", rule.severity, why]


def test_every_rule_has_a_line_with_its_reason() -> None:
    rows = rows_of("docs/rules.md")
    rules = Rulebook.load(Workspace(ROOT)).rules
    assert [line_of(rule) for rule in rules.values() if line_of(rule) not in rows] == []
    listed = {row[0] for row in rows if re.fullmatch(r"`[a-z]+/\w+`", row[0])}
    assert listed == {f"`{name}`" for name in rules}


def test_every_limit_of_a_rule_is_named() -> None:
    named = {row[0]: row[1] for row in rows_of("docs/rules.md")}
    for name, rule in Rulebook.load(Workspace(ROOT)).rules.items():
        said = " ".join(text for cell, text in named.items() if f"`{name}`" in cell)
        for limit, value in rule.limits.items():
            wanted = limit if isinstance(value, list) else f"{limit} = {value}"
            assert f"`{wanted}`" in said, f"{name}: {wanted}"


def columns_of_the_ledger() -> dict[tuple[str, bool], list[str]]:
    """Columns by name, and whether it is a view."""
    found: dict[tuple[str, bool], list[str]] = {}
    with duckdb.connect() as con:
        for migration in load_migrations():
            con.execute(migration.sql)
        define_views(con)
        views = {row[0] for row in con.execute("select view_name from duckdb_views()").fetchall()}
        for table, column in con.execute(
            "select table_name, column_name from duckdb_columns() where not internal"
        ).fetchall():
            found.setdefault((table, table in views), []).append(column)
    return found


def test_every_view_has_a_section_with_its_columns_and_every_table_a_line() -> None:
    page = "docs/ledger-and-sql.md"
    sections = sections_of(page)
    for (name, is_view), columns in columns_of_the_ledger().items():
        if not is_view:
            assert name in names_in(page), name
            continue
        cells = re.findall(r"^\| ([^|]+) \| [^|]*\w", sections[name], re.MULTILINE)
        named = set(re.findall(r"`(\w+)`", " ".join(cells)))
        assert named == set(columns), name


def test_every_kind_of_benchmark_has_a_section_with_its_keys() -> None:
    sections = sections_of("docs/scoring.md")
    assert "calls" in sections
    for kind, (definition, _) in KINDS.items():
        own = definition.model_fields.keys() - Definition.model_fields.keys()
        assert not [key for key in own if f"`{key}`" not in sections[kind]], kind
    common = names_in("docs/scoring.md")
    assert common >= set(Definition.model_fields)
    shown = "\n".join(block.text for block in BLOCKS["docs/scoring.md"])
    assert not [name for name in defined(Workspace(ROOT)) if f"\n{name} " not in shown]


def test_coders_dialects_formats_recipes_and_prompts_have_a_line() -> None:
    assert names_in("docs/codes.md") >= {*CODERS, "none"}
    assert names_in("docs/requests-and-tools.md") >= DIALECTS.keys()
    assert names_in("docs/ledger-and-sql.md") >= set(get_args(Format))
    assert names_in("docs/recipes-and-papers.md") >= set(get_args(ExampleKind))
    recipes = {path.stem for path in (ROOT / "rounds").glob("*.toml")}
    assert names_in("docs/recipes-and-papers.md") >= recipes
    prompts = {path.relative_to(ROOT).as_posix() for path in (ROOT / "prompts").rglob("*.j2")}
    assert names_in("docs/requests-and-tools.md") >= prompts

"""The order of the modules, and what the light commands may import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from workspaces import ROOT

PACKAGE = ROOT / "factory"
ORDER = """
failures canon records workspace recipe prompts pattern jsontext schema rulebook child
home store dialects sources codes engines retrieve queries tools calls vote scorers benchmark
published similarity judge_rounds findings judge_calls judge_documents check content judging
sampling export history dataset train curriculum score scorecard compare standings labelled serving
kinds rows round rejudge evaluate seed doctor scaffold plaintext report cli
""".split()
"""A module imports only what stands before it, or its own package."""

HEAVY = {"torch", "vllm", "transformers", "trl", "peft", "datasets", "sklearn", "accelerate"}
LIGHT_COMMANDS = (
    ["--help"],
    ["sql", "--help"],
    ["rules"],
    ["status"],
    ["rejects", "--help"],
    ["report", "--help"],
)
FACTORY_BOY_NAMES = (
    "alchemy base builder declarations django enums errors faker fuzzy helpers mogo mongoengine "
    "random utils"
).split()


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_no_group_is_possessive() -> None:
    """Python before 3.11.5 gets them wrong (gh-106052); an atomic group says the same."""
    possessive = re.compile(r"\)(?:[*+?]|\{[\d,]+\})\+")
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and possessive.search(node.value)
    ]
    assert not found


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "factory":
            names |= {f"factory.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return names


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_order(path: Path) -> None:
    unit = unit_of(path)
    if unit in ("__init__", "__main__"):
        return
    assert unit in ORDER, f"{unit} has no place in the order"
    for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
        parts = name.split(".")
        if parts[0] == "factory" and len(parts) > 1 and parts[1] != unit:
            assert ORDER.index(parts[1]) < ORDER.index(unit), f"{unit} imports {parts[1]}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_are_imported_inside_functions(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = ast.Module(body=[n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)])
    assert not {name.split(".")[0] for name in imported(top)} & HEAVY


@pytest.mark.parametrize("arguments", LIGHT_COMMANDS, ids=" ".join)
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['factory', *sys.argv[1:]]\n"
        "from factory.cli.main import run\n"
        "try: run()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        f"heavy = {HEAVY!r} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, check=True, timeout=60)


def test_help_loads_only_what_parses_and_prints() -> None:
    code = (
        "import sys, factory.cli.main\n"
        "found = {'duckdb', 'numpy', 'pydantic', 'jsonschema', 'jinja2'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_no_module_has_a_name_of_factory_boy() -> None:
    names = {path.stem for path in PACKAGE.glob("*") if path.suffix in ("", ".py")}
    assert not names & set(FACTORY_BOY_NAMES)
    assert (PACKAGE / "__init__.py").read_text(encoding="utf-8") == ""


def test_content_folders_hold_no_python() -> None:
    for folder in ("prompts", "rules", "rounds", "eval"):
        assert not list((ROOT / folder).rglob("*.py"))

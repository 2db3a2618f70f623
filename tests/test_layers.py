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
FLOORS = (
    "domain",
    "workspace tools",
    "ledger codes",
    "engines judge",
    "train score",
    "report lab lessons",
    "round deploy",
    "cli",
)
"""A room imports only from the lines above its own, and from itself."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}

HEAVY = {"torch", "vllm", "ray", "transformers", "trl", "peft", "datasets", "sklearn", "accelerate"}
CHILD_ONLY = frozenset(
    f"factory.{module}"
    for module in (
        "engines.beam engines.chat engines.constrain engines.embedding engines.fitting "
        "engines.forest engines.generation engines.grammar engines.importing_child "
        "engines.loading engines.native_child engines.parsers engines.perplexity_child "
        "engines.processors engines.ray engines.retrieve_child engines.server "
        "engines.trainable_child engines.transformers engines.vllm "
        "codes.gist codes.guided codes.reader "
        "deploy.binding deploy.gateway deploy.packing_child deploy.plugged deploy.server_child "
        "train.child train.coding train.helper train.keeping train.learner train.preferences "
        "train.preview_child train.staging train.team train.trainer"
    ).split()
)
"""Modules that only child processes load: they import the heavy libraries at their top."""
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
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports() -> dict[str, set[str]]:
    """By module of the package, the modules of the package that it imports, wherever it does."""
    known = {module_of(path): path for path in modules() if path.parent != PACKAGE}
    return {
        module: {name for name in imported(ast.parse(path.read_text("utf-8"))) if name in known}
        for module, path in known.items()
    }


def test_every_folder_is_a_room_that_says_what_it_is() -> None:
    flat = {path.name for path in PACKAGE.glob("*.py")}
    assert flat == {"__init__.py", "__main__.py"}
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(FLOOR)
    for init in PACKAGE.glob("*/**/__init__.py"):
        tree = ast.parse(init.read_text(encoding="utf-8"))
        text = ast.get_docstring(tree)
        assert text and len(text.splitlines()) <= 5 and len(tree.body) == 1, init


def test_rooms_know_only_the_floors_before_theirs() -> None:
    found = [
        f"{module} imports {name}"
        for module, names in imports().items()
        for name in sorted(names)
        if room_of(module) != room_of(name) and FLOOR[room_of(name)] >= FLOOR[room_of(module)]
    ]
    assert not found


def test_imports_make_no_circle() -> None:
    left = imports()
    while free := {module for module, names in left.items() if not names & left.keys() - {module}}:
        left = {module: names for module, names in left.items() if module not in free}
    assert not left, f"a circle of imports among {sorted(left)}"


def local_imports(tree: ast.AST) -> list[int]:
    """Lines in functions, methods and classes that import from the package."""
    return [
        node.lineno
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for node in ast.walk(outer)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and any(name.split(".")[0] == "factory" for name in imported(node))
    ]


def test_the_package_is_imported_at_the_top() -> None:
    """An import inside a function hides an arrow between rooms. TYPE_CHECKING is no function."""
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in modules()
        if local_imports(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert not found


def test_no_two_classes_share_a_name() -> None:
    """One word, one thing: whoever greps for a class finds one."""
    places: dict[str, list[str]] = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(path.relative_to(PACKAGE).as_posix())
    assert not {name: files for name, files in places.items() if len(files) > 1}


def test_heavy_libraries_are_imported_at_the_top_only_where_a_child_runs() -> None:
    """The command itself stays light: what it loads imports them inside functions, if at all."""
    found = []
    for path in modules():
        if (module := module_of(path)) in CHILD_ONLY:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = imported(ast.Module(body=list(top), type_ignores=[]))
        found += [
            f"{module} imports {name}"
            for name in sorted(names)
            if name.split(".")[0] in HEAVY or name in CHILD_ONLY
        ]
    assert not found


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


def test_no_command_loads_anything_heavy_to_be_parsed() -> None:
    code = (
        "import sys; from factory.cli.commands import COMMANDS, load\n"
        "for name, entry in COMMANDS.items(): load(name, entry)\n"
        f"heavy = {HEAVY!r} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("arguments", [["--help"], ["codes", "--help"]], ids=" ".join)
def test_help_loads_no_command(arguments: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['factory', *sys.argv[1:]]\n"
        "from factory.cli.main import run\n"
        "try: run()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "found = {name for name in sys.modules if name.startswith('factory.cli.')}\n"
        "found -= {f'factory.cli.{name}' for name in ('main', 'app', 'commands', 'terminal')}\n"
        "found |= {'duckdb', 'numpy', 'jsonschema', 'jinja2'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, check=True, timeout=60)


def test_no_module_has_a_name_of_factory_boy() -> None:
    names = {path.stem for path in PACKAGE.glob("*") if path.suffix in ("", ".py")}
    assert not names & set(FACTORY_BOY_NAMES)
    assert (PACKAGE / "__init__.py").read_text(encoding="utf-8") == ""


def test_content_folders_hold_no_python() -> None:
    for folder in ("prompts", "rules", "rounds", "eval", "plans"):
        assert not list((ROOT / folder).rglob("*.py"))


def test_asking_the_ledger_loads_no_arrow(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from factory.ledger.database import Ledger\n"
        "assert Ledger(Path(sys.argv[1])).query('select count(*) from draw').rows == [(0,)]\n"
        "assert 'pyarrow' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)

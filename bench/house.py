"""`python -m bench.house [CHECKOUT ...]`: how a checkout's package reads, in numbers.

Files, lines, lengths of functions, comments, class names in two files, imports of the package
inside functions, rooms, floors of imports, and what one round's step file leads to: the files and
lines that it imports, directly or not. Several checkouts stand side by side.
"""

from __future__ import annotations

import argparse
import ast
import io
import statistics
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench.table import Cell, print_table

FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class House:
    """A package as text, by module."""

    texts: dict[str, str]
    trees: dict[str, ast.Module]

    @classmethod
    def read(cls, checkout: Path) -> House:
        """The package `factory` of a checkout."""
        texts = {}
        for path in sorted((checkout / "factory").rglob("*.py")):
            module = ".".join(path.relative_to(checkout).with_suffix("").parts)
            texts[module.removesuffix(".__init__")] = path.read_text(encoding="utf-8")
        return cls(texts, {module: ast.parse(text) for module, text in texts.items()})

    def imports(self, module: str) -> set[str]:
        """Modules of the package that a module imports anywhere."""
        names: set[str] = set()
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        return names & self.texts.keys() - {module}

    def functions(self) -> list[FUNCTIONS]:
        """All functions and methods."""
        nodes = (node for tree in self.trees.values() for node in ast.walk(tree))
        return [node for node in nodes if isinstance(node, FUNCTIONS)]

    def comments(self) -> int:
        """Lines of comment."""
        return sum(
            token.type == tokenize.COMMENT
            for text in self.texts.values()
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
        )

    def classes_twice(self) -> int:
        """Class names that more than one file defines."""
        names = Counter(
            name
            for tree in self.trees.values()
            for name in {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        )
        return sum(count > 1 for count in names.values())

    def inner_imports(self) -> int:
        """Imports of the package inside functions."""
        found = 0
        for function in self.functions():
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and node.module:
                    found += node.module.split(".")[0] == "factory"
                elif isinstance(node, ast.Import):
                    found += any(alias.name.split(".")[0] == "factory" for alias in node.names)
        return found

    def floors(self) -> str:
        """Floors of rooms by their imports; how many rooms stand in circles."""
        rooms: dict[str, set[str]] = {}
        for module in self.texts:
            for name in self.imports(module):
                one, other = (".".join(each.split(".")[1:2]) for each in (module, name))
                if one and other and one != other and "__main__" not in (one, other):
                    rooms.setdefault(one, set()).add(other)
                    rooms.setdefault(other, set())
        left, floors = dict(rooms), 0
        while free := {room for room, others in left.items() if not others & left.keys()}:
            left = {room: others for room, others in left.items() if room not in free}
            floors += 1
        return f"{len(rooms)} on {floors}" + (f", {len(left)} in circles" if left else "")

    def reach(self, start: str) -> set[str]:
        """A module and all that it leads to."""
        seen, waiting = set(), {start}
        while waiting:
            module = waiting.pop()
            seen.add(module)
            waiting |= self.imports(module) - seen
        return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkouts", type=Path, nargs="*", default=[Path()])
    arguments = parser.parse_args()
    houses = [House.read(checkout) for checkout in arguments.checkouts]
    rows = [list(row) for row in zip(*(measure(house) for house in houses), strict=True)]
    shown: list[list[Cell]] = [[row[0][0], *(str(value) for _, value in row)] for row in rows]
    names = [str(checkout.resolve().name) for checkout in arguments.checkouts]
    print_table("the house", ("", *names), shown)


def measure(house: House) -> list[tuple[str, object]]:
    """What is counted, in the order of the table."""
    lengths = sorted((f.end_lineno or f.lineno) - f.lineno + 1 for f in house.functions())
    lines = {module: text.count("\n") for module, text in house.texts.items()}
    code = sum(
        bool(line.strip()) and not line.strip().startswith("#")
        for text in house.texts.values()
        for line in text.splitlines()
    )
    start = "factory.round.round" if "factory.round.round" in house.texts else "factory.round"
    reached = house.reach(start)
    flat = sum(
        module.count(".") == 1 and not any(other.startswith(f"{module}.") for other in house.texts)
        for module in house.texts
    )
    return [
        ("files", len(house.texts)),
        ("lines", f"{sum(lines.values()):,}"),
        ("longest file", f"{max(lines.values()):,}"),
        ("files flat in factory/", flat),
        ("rooms on floors", house.floors()),
        (
            "lines a function: median, 95 %, most",
            f"{statistics.median(lengths):.0f}, {lengths[int(len(lengths) * 0.95)]}, {lengths[-1]}",
        ),
        ("functions over 60 lines", sum(length > 60 for length in lengths)),
        ("comments a line of code", f"{house.comments() / code:.4f}"),
        ("class names in two files", house.classes_twice()),
        ("imports of factory in functions", house.inner_imports()),
        ("lines of the round's file", f"{lines[start]:,}"),
        ("files the round leads to", len(reached)),
        ("lines the round leads to", f"{sum(lines[module] for module in reached):,}"),
    ]


if __name__ == "__main__":
    main()

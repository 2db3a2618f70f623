"""Python functions as tools: what the signature, the annotations and the docstring say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from factory.domain.failures import InputError
from factory.tools.dialects import read_dialect
from factory.tools.functions import read_functions
from factory.tools.schema import read_document

MODULE = '''
from dataclasses import dataclass, make_dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Optional

Size = Enum("Size", {"S": "s", "L": "l"})
called = []


@dataclass
class Box:
    width: int
    label: str = ""


def order(cake: str, size: Size, *, box: Optional[Box] = None, tip: float = 0.5) -> dict[str, int]:
    """Order a cake
    for a day.

    It is baked at night.

    Args:
        cake (str): Which one,
            by its name.
        size: How big: s or l.
        tip: In euros.

    Returns:
        The order.
    """
    called.append(cake)


def numpy_way(a: "int", b: list[Literal["x", "y"]] = ["x"], **rest: Any) -> None:
    """Add things.

    Parameters
    ----------
    a : int
        The first
        of them.
    b
        The others.
    """


def sphinx_way(a, b=object()):
    """Do it.

    :param int a: The first.
    :param b: The second.
    :returns: nothing
    """


def positional(*parts: int) -> None:
    """Has none to name."""


def odd(numbers: range) -> None:
    """Takes what JSON has not."""


Other = make_dataclass("Box", [("lid", str)])


def pack(one: Box, other: Other, third: Box) -> None:
    """Pack two kinds of boxes."""


class Shop:
    def close(self, hour: int = 18) -> None:
        """Close the shop."""
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "cakes_for_tools.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cakes_for_tools", raising=False)
    return "cakes_for_tools"


def read(target: str) -> dict[str, Any]:
    ((_, value),) = read_functions(target)
    assert isinstance(value, dict), value
    (document,) = read_dialect(value)
    return document


def test_a_function_is_what_its_signature_and_docstring_say(module: str) -> None:
    document = read(f"{module}:order")
    assert document["description"] == "Order a cake for a day.\nIt is baked at night."
    arguments = document["arguments"]
    assert arguments["required"] == ["cake", "size"]
    properties = arguments["properties"]
    assert properties["cake"] == {"type": "string", "description": "Which one, by its name."}
    assert properties["size"]["enum"] == ["s", "l"]
    assert properties["tip"] == {"default": 0.5, "description": "In euros.", "type": "float"}
    is_valid = read_document(document).validator.is_valid
    assert is_valid({"cake": "plum", "size": "s", "box": {"width": 3}})
    assert is_valid({"cake": "plum", "size": "s", "box": None})
    for wrong in ({"cake": "plum"}, {"cake": "p", "size": "m"}, {"cake": 1, "size": "s"}):
        assert not is_valid(wrong)
    assert not is_valid({"cake": "p", "size": "s", "box": {"label": "x"}})
    assert document["results"]["type"] == "dict"
    assert sys.modules[module].called == []


def test_two_types_of_one_name_stay_two(module: str) -> None:
    is_valid = read_document(read(f"{module}:pack")).validator.is_valid
    one, other = {"width": 1}, {"lid": "wood"}
    assert is_valid({"one": one, "other": other, "third": one})
    assert not is_valid({"one": other, "other": other, "third": one})
    assert not is_valid({"one": one, "other": one, "third": one})
    assert not is_valid({"one": one, "other": other, "third": other})


def test_docstrings_of_numpy_and_sphinx(module: str) -> None:
    numpy_way, sphinx_way = read(f"{module}:numpy_way"), read(f"{module}:sphinx_way")
    assert numpy_way["description"] == "Add things."
    words = {n: p.get("description") for n, p in numpy_way["arguments"]["properties"].items()}
    assert words == {"a": "The first of them.", "b": "The others."}
    assert read_document(numpy_way).validator.is_valid({"a": 1, "b": ["y"], "c": 3})
    assert not read_document(numpy_way).validator.is_valid({"a": 1, "b": ["z"]})
    assert sphinx_way["description"] == "Do it."
    assert sphinx_way["arguments"] == {
        "type": "dict",
        "properties": {"a": {"description": "The first."}, "b": {"description": "The second."}},
        "required": ["a"],
    }


def test_a_module_gives_its_public_functions_and_says_what_it_cannot(module: str) -> None:
    made = dict(read_functions(module))
    assert list(made) == [
        *("order", "numpy_way", "sphinx_way", "positional", "odd", "pack"),
    ]
    assert made["positional"] == "*parts has no name to be called by"
    assert "is no type of JSON" in str(made["odd"])
    assert read(f"{module}:Shop.close")["arguments"]["properties"] == {
        "hour": {"type": "integer", "default": 18}
    }


def test_what_is_not_there_is_told(module: str) -> None:
    with pytest.raises(InputError, match="no such function"):
        read_functions(f"{module}:bake")
    with pytest.raises(InputError, match="cannot be imported: ModuleNotFoundError"):
        read_functions("no_such_module_of_cakes:bake")


def test_an_annotation_that_cannot_be_read_costs_its_function_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd_annotations.py").write_text(
        "def bad(x: 'a number') -> int:\n    'Does it.'\n\n\n"
        "def good(x: int) -> int:\n    'Does it.'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (_, cause), (name, document) = read_functions("odd_annotations")
    assert isinstance(cause, str) and "SyntaxError" in cause
    assert name == "good" and not isinstance(document, str)

"""What of a request's extra arguments may bind it: nothing of others' files, and no crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from workspaces import ROOT

from factory.deploy.binding import check_bound
from factory.deploy.catalogue import ServedCatalogue
from factory.deploy.served import Served
from factory.engines.constrain import GRAMMAR, GUIDE, guide_to_wire

SEED = ROOT / "rounds" / "seed"


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(folder=str(SEED), workspace=str(ROOT), scratch=str(tmp_path))


def own_guide(served: Served) -> dict[str, Any]:
    coded = ServedCatalogue(SEED, Path(served.scratch)).current()
    assert coded is not None
    guide: dict[str, Any] = guide_to_wire(coded.path, (), (), None)[GUIDE]
    return guide


def test_what_the_gateway_asks_is_bound(served: Served) -> None:
    check_bound({GUIDE: json.dumps(own_guide(served))}, served)
    check_bound({GRAMMAR: 'start: "a"'}, served)
    check_bound({"other": [1]}, served)
    check_bound(None, served)


@pytest.mark.parametrize(
    "more",
    [
        {"documents": str(SEED / "codes" / "tools.jsonl")},
        {"documents": "/etc/passwd"},
        {"path": "/etc/passwd"},
        {"path": [1]},
        {"only": ["x"]},
        {"until": 10**12},
        {"another": 1},
    ],
)
def test_another_guide_than_the_servers_is_refused(served: Served, more: dict[str, Any]) -> None:
    wire = json.dumps(own_guide(served) | more)
    with pytest.raises(ValueError, match="the server's to name: leave factory_guide out"):
        check_bound({GUIDE: wire}, served)


@pytest.mark.parametrize("wire", ["{}", "[1]", "{", "5", {"path": 1}, [1], 5])
def test_what_is_no_guide_is_refused(served: Served, wire: object) -> None:
    with pytest.raises(ValueError):
        check_bound({GUIDE: wire}, served)


def test_a_guide_of_no_trie_is_refused(served: Served) -> None:
    for name in ("none.npz", ".."):
        guide = guide_to_wire(f"{served.scratch}/{name}", (), (), None)[GUIDE]
        with pytest.raises(ValueError):
            check_bound({GUIDE: json.dumps(guide)}, served)


@pytest.mark.parametrize("grammar", [[1], 5, {"a": 1}, "start: ("])
def test_what_is_no_grammar_is_refused(served: Served, grammar: object) -> None:
    with pytest.raises(ValueError, match=r"a text is wanted|no grammar can be made"):
        check_bound({GRAMMAR: grammar}, served)

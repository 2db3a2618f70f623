"""The tools of a served checkpoint, and what becomes of them while it is served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from workspaces import ROOT

from factory.codes.trie import Trie
from factory.deploy.catalogue import ServedCatalogue
from factory.domain.failures import ModelError

CODES = ROOT / "rounds" / "seed" / "codes"


def checkpoint(folder: Path) -> Path:
    """A folder with the embedded model's codes."""
    shutil.copytree(CODES, folder / "codes")
    return folder


def add_tool(folder: Path, name: str, code: tuple[int, ...]) -> None:
    """Put another codes folder in the place of a checkpoint's, with one more tool."""
    new = folder / "codes.new"
    shutil.copytree(folder / "codes", new)
    trie = Trie.load(new / "trie.npz")
    trie.insert(code, "t_new")
    trie.save(new / "trie.npz")
    arguments = {"type": "dict", "properties": {}, "required": []}
    row = {"tool_id": "t_new", "document": {"name": name, "arguments": arguments}}
    with (new / "tools.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    (folder / "codes").rename(folder / "old")
    new.rename(folder / "codes")


def free_code(trie: Trie) -> tuple[int, ...]:
    """A code that no tool has: one tool's first tokens with another's last."""
    codes = [code for code, _ in trie.codes()]
    found = ((*a[:-1], b[-1]) for a in codes for b in codes)
    return next(code for code in found if code not in trie)


def test_a_code_names_its_tool_with_and_without_its_end(tmp_path: Path) -> None:
    coded = ServedCatalogue(checkpoint(tmp_path / "model"), tmp_path).current()
    assert coded is not None
    code, tool_id = next(coded.trie.codes())
    document = coded.documents[tool_id]
    assert coded.tool_of(code) == coded.tool_of((*code, coded.trie.end)) == document
    assert coded.tool_of(code[:-1]) is None and coded.tool_of(()) is None
    assert coded.named({document["name"]})[0]["name"] == document["name"]
    assert Path(coded.path).parent == tmp_path
    assert coded.longest == len(code) + 1


def test_tools_that_come_while_it_is_served_are_found(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    catalogue = ServedCatalogue(folder, tmp_path)
    before = catalogue.current()
    assert before is not None and catalogue.current() is before
    code = free_code(before.trie)
    add_tool(folder, "feed_llama", code)
    after = catalogue.current()
    assert after is not None and after.path != before.path
    found = after.tool_of(code)
    assert found is not None and found["name"] == "feed_llama"
    assert before.tool_of(code) is None


def test_while_codes_are_replaced_those_before_are_in_force(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    catalogue = ServedCatalogue(folder, tmp_path)
    before = catalogue.current()
    (folder / "codes").rename(folder / "away")
    assert catalogue.current() is before
    assert ServedCatalogue(tmp_path / "nothing", tmp_path).current() is None


@pytest.mark.parametrize("content", [None, "{", '{"name": "x"}', "[1]"])
def test_codes_that_cannot_be_read_are_named_at_the_start(
    tmp_path: Path, content: str | None
) -> None:
    tools = checkpoint(tmp_path / "model") / "codes" / "tools.jsonl"
    tools.unlink() if content is None else tools.write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match="the codes cannot be read"):
        ServedCatalogue(tmp_path / "model", tmp_path)

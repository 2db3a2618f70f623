"""`factory codes`: what it says of the shipped codes, and codes of one's own from fit to add."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest_models import tiny_model
from test_codes import make_embeddings, make_tools
from workspaces import ROOT, make_workspace, run_factory

from factory.codes.lifecycle import Codebook
from factory.codes.picture import draw_space


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_workspace(tmp_path / "ws").root


def seed_codes() -> Codebook:
    codebook = Codebook.load(ROOT / "rounds" / "seed")
    assert codebook is not None
    return codebook


def test_stats_show_and_similar_read_the_shipped_codes(workspace: Path) -> None:
    codebook = seed_codes()
    record = json.loads(run_factory("codes", "stats", "--json", cwd=workspace).stdout)
    assert record["tools"] == len(codebook) and record["collisions after"] == 0
    assert "residual" in run_factory("codes", "stats", cwd=workspace).stdout

    entry = codebook.tools[7]
    code = codebook.text_of(entry.code)
    for name in (entry.tool.name, entry.tool.id, code):
        shown = run_factory("codes", "show", name, "--json", cwd=workspace).stdout
        rows = [json.loads(line) for line in shown.splitlines()]
        assert code in [row["code"] for row in rows]
        assert entry.tool.document in [row["document"] for row in rows]
    assert code in run_factory("codes", "show", entry.tool.id, cwd=workspace).stdout

    found = run_factory("codes", "similar", entry.tool.id, "-k", "3", "--json", cwd=workspace)
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [(row["tool_id"], row["distance"]) for row in rows] == [
        (other.tool.id, distance) for other, distance in codebook.similar(entry.tool.id, 3)
    ]


def test_what_is_not_there_is_said(workspace: Path, tmp_path: Path) -> None:
    done = run_factory("codes", "show", "get_wether", cwd=workspace, code=2)
    assert "did you mean" in done.stderr
    bare = tiny_model(tmp_path / "bare")
    done = run_factory("codes", "stats", "--checkpoint", str(bare), cwd=workspace, code=2)
    assert "no codes yet" in done.stderr
    file = workspace / "tools.jsonl"
    file.write_text(json.dumps(make_tools(1)[0].document) + "\n", encoding="utf-8")
    done = run_factory("codes", "add", str(file), cwd=workspace, code=2)
    assert "not the workspace's own" in done.stderr and "--out" in done.stderr


@pytest.mark.slow
def test_codes_are_fitted_seen_written_and_added_to(workspace: Path) -> None:
    model = tiny_model(workspace / "models" / "bare", max_positions=1024)
    lines = [json.dumps(tool.document) for tool in make_tools(40)]
    (workspace / "tools.jsonl").write_text("\n".join([*lines, "{"]) + "\n", encoding="utf-8")
    (workspace / "more.jsonl").write_text(
        "\n".join(json.dumps(tool.document) for tool in make_tools(5, start=38)) + "\n",
        encoding="utf-8",
    )
    options = ("--checkpoint", str(model), "--set", "codes.size=8", "--out", "models/coded")
    done = run_factory("codes", "fit", "tools.jsonl", *options, cwd=workspace, code=1)
    assert "bad line" in done.stderr and "variance left" in done.stdout
    assert "nearest by positions that differ" in done.stdout
    svg = (workspace / ".factory" / "codes.svg").read_text(encoding="utf-8")
    assert len(ElementTree.fromstring(svg).findall("{http://www.w3.org/2000/svg}circle")) == 40
    codebook = Codebook.load(workspace / "models" / "coded")
    assert codebook is not None and len(codebook) == 40

    coded = ("--checkpoint", "models/coded")
    added = run_factory("codes", "add", "more.jsonl", *coded, cwd=workspace)
    assert "3 tools coded, 2 had codes, 0 bad" in added.stderr
    grown = Codebook.load(workspace / "models" / "coded")
    assert grown is not None and len(grown) == 43
    assert all(grown.code_of(tool_id) == codebook.code_of(tool_id) for tool_id in codebook.tool_ids)
    sql = "select count(*) as n from tool_code join tool using (tool_id)"
    rows = run_factory("sql", sql, "--json", cwd=workspace).stdout
    assert json.loads(rows) == {"n": 3}
    again = run_factory("codes", "add", "more.jsonl", *coded, cwd=workspace)
    assert "0 tools coded, 5 had codes" in again.stderr
    run_factory("codes", "fit", "tools.jsonl", *options, cwd=workspace, code=2)


def test_the_picture_is_the_same_for_the_same_codes() -> None:
    points = make_embeddings(30)
    codes = [(row % 4, row) for row in range(30)]
    labels = ["<b>&" + str(row) for row in range(30)]
    svg = draw_space(points, codes, labels, "codes <of> 30")
    assert svg == draw_space(points, codes, labels, "codes <of> 30")
    root = ElementTree.fromstring(svg)
    dots = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(dots) == 30 and len({dot.get("fill") for dot in dots}) == 4
    assert dots[3][0].text == "<b>&3"


def test_reading_codes_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['factory', 'codes', 'stats']\n"
        "from factory.cli.main import run\n"
        "try: run()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'scipy', 'vllm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_every_command_of_the_group_has_an_example() -> None:
    from factory.cli.codes import codes

    for command in codes.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        assert f"factory codes {name}" in (command.callback.__doc__ or ""), name

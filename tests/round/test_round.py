"""Real rounds on the embedded model: real vLLM samples, real TRL trains, processes are killed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from real_round import RECIPE, ask, check_books, make_quick_workspace
from workspaces import ROOT, run_factory

pytestmark = pytest.mark.slow


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_quick_workspace(tmp_path / "ws")


def offline() -> tuple[str, ...]:
    """A prefix that runs a command in a network namespace with a loopback and no way out."""
    up = (sys.executable, str(ROOT / "tests" / "loopback.py"))
    for unshare in (("unshare", "--net"), ("unshare", "--user", "--map-root-user", "--net")):
        probe = subprocess.run([*unshare, *up, "true"], capture_output=True)
        if probe.returncode == 0:
            return (*unshare, *up)
    pytest.skip(f"no network namespace can be made here: {probe.stderr.decode()}")


APIS = [
    {
        "category_name": "Food",
        "tool_name": "Kettle",
        "api_name": f"{verb} {what}",
        "api_description": f"{verb.capitalize()} some {what}.",
        "required_parameters": [{"name": "cups", "type": "NUMBER", "description": "How many."}],
        "optional_parameters": [],
    }
    for verb in ("boil", "keep", "pour")
    for what in ("water", "milk")
]
"""ToolBench's way of writing APIs."""


def write_benchmarks(workspace: Path) -> None:
    """A folder in BFCL's layout and one in ToolBench's, which each round of the recipe scores."""
    rows = [
        {"query": f"{a['api_name']}, please", "query_id": n, "api_list": [a],
         "relevant APIs": [[a["tool_name"], a["api_name"]]]}
        for n, a in enumerate(APIS[:4])
    ]  # fmt: skip
    lamp = {
        "name": "set_lamp",
        "description": "Set a lamp.",
        "parameters": {
            "type": "dict",
            "properties": {"room": {"type": "string", "description": "Where."}},
            "required": ["room"],
        },
    }
    ask_lamp = [[{"role": "user", "content": "Light the purple pantry lamp."}]]
    question = {"id": "simple_0", "question": ask_lamp, "function": [lamp]}
    gold = {"id": "simple_0", "ground_truth": [{"set_lamp": {"room": ["pantry"]}}]}
    calls = 'title = "Lamps"\nsplit = "test"\nquestions = "lamps"\ncategories = ["simple"]\n'
    tools = 'kind = "retrieval"\ntitle = "Kettles"\nsplit = "test"\ndata = "kettles"\n'
    files = {
        "eval/lamps.toml": calls,
        "eval/lamps/simple.json": json.dumps(question),
        "eval/lamps/possible_answer/simple.json": json.dumps(gold),
        "eval/kettles.toml": tools,
        "kettles/corpus.jsonl": "\n".join(map(json.dumps, APIS)),
        "kettles/test_instruction/G1_instruction.json": json.dumps(rows),
        "rounds/quick.toml": RECIPE + 'benchmarks = ["home", "lamps", "kettles"]\n',
    }
    for path, text in files.items():
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        (workspace / path).write_text(text, encoding="utf-8")


def test_two_rounds_without_a_network(workspace: Path) -> None:
    prefix = offline()
    write_benchmarks(workspace)
    run_factory("add-tools", "kettles/corpus.jsonl", cwd=workspace)
    # Its code example is longer than train.max_length.
    lid = APIS[0] | {"api_name": "lift lid", "api_description": "Lift the lid of a kettle. " * 120}
    (workspace / "long.jsonl").write_text(json.dumps(lid), encoding="utf-8")
    run_factory("add-tools", "long.jsonl", cwd=workspace)
    shutil.copytree(ROOT / "rounds" / "seed", workspace / "mine")
    few = ("--set", "train.documents=4")
    plan = run_factory("round", "--dry-run", *few, cwd=workspace).stdout
    assert "7 of imported tools to learn by heart, 4 a round at most" in plan
    own = ("--model", "mine")
    first = run_factory("round", "--n", "16", *own, *few, cwd=workspace, prefix=prefix)
    assert "16 drawn" in first.stdout and "promoted" in first.stdout
    assert "4 learnt by heart, 3 waiting" in first.stdout
    check_books(workspace, 1, 16)
    second = run_factory("round", "--n", "8", cwd=workspace, prefix=prefix)
    assert "round 2" in second.stdout and "2 learnt by heart, 1 waiting" in second.stdout
    assert "1 code/too_long" in second.stdout
    assert "1 of imported" in run_factory("round", "--dry-run", cwd=workspace).stdout
    check_books(workspace, 2, 8)
    page = workspace / ".factory" / "reports" / "r2.html"
    assert str(page) in second.stdout and "Round 2" in page.read_text(encoding="utf-8")
    assert (page.parent / "r1.html").exists() and (page.parent / "index.html").exists()

    (shared,) = ask(
        workspace,
        "select count(*) as n from draw a join draw b using (query_id) where a.round < b.round",
    )
    assert shared["n"] == 0
    lineage = ask(workspace, "select * from lineage order by round")
    assert [row["round"] for row in lineage] == [0, 1, 2]
    assert lineage[0]["checkpoint_id"].startswith("mine-")
    assert lineage[2]["parent_id"] == lineage[1]["checkpoint_id"]
    assert all(row["home_after"] is not None for row in lineage[1:])
    # Each checkpoint is scored on benchmarks of both kinds; what a round codes can be found.
    scored = ask(
        workspace,
        "select benchmark, made.round, count(*) as n, "
        "count(*) filter (item_score.reason = 'no_code') as uncoded "
        "from item_score join checkpoint as made using (checkpoint_id) "
        "where benchmark in ('lamps', 'kettles') group by all order by benchmark, made.round",
    )
    assert [tuple(row.values()) for row in scored] == [
        *(("kettles", number, 8, 0 if number else 8) for number in (0, 1, 2)),
        *(("lamps", number, 1, 0) for number in (0, 1, 2)),
    ]
    read = ask(
        workspace, "select round, list(moment) as moments from language group by 1 order by 1"
    )
    assert [row["round"] for row in read] == [1, 2]
    assert all(set(row["moments"]) == {"before", "coded", "after"} for row in read)
    assert "perplexity of plain requests" in second.stdout
    deltas = ask(workspace, "select benchmark, after from round_delta where category = 'overall'")
    assert {row["benchmark"] for row in deltas} >= {"lamps", "kettles"}
    assert all(row["after"] is not None for row in deltas)
    assert "kettles: multi-domain I1-Inst" in page.read_text(encoding="utf-8")
    # Each imported document is learnt once, whatever the answers call.
    taught = ask(
        workspace,
        "select tool_id, count(*) as n, count(distinct example.round) as rounds from tool "
        "join example on example.origin = 'r' || example.round || '/' || tool_id "
        "where tool.origin in ('corpus.jsonl', 'long.jsonl') and kind = 'code' group by 1",
    )
    assert len(taught) == 6 and {(row["n"], row["rounds"]) for row in taught} == {(1, 1)}
    codes = ask(workspace, "select code, count(*) as n from tool_code group by 1 having n > 1")
    assert codes == []
    stages = {row["stage"] for row in ask(workspace, "select stage from generation")}
    assert stages == {"tools", "propose", "retrieve", "calls"}
    (sampling,) = ask(
        workspace,
        "select count(*) as n, count(distinct sampling_json) as kinds, "
        "count(*) filter (prompt_sha is null or seed is null) as blank "
        "from generation where stage = 'calls'",
    )
    assert sampling["n"] % 5 == 0 and sampling["kinds"] == 1 and sampling["blank"] == 0

    with duckdb.connect(str(workspace / ".factory" / "ledger.duckdb"), read_only=True) as plain:
        assert plain.execute("select count(*) from sample").fetchone() == (24,)

    identifier = ask(workspace, "select query_id from accepted limit 1")[0]["query_id"]
    shown = run_factory("show", identifier, "--raw", cwd=workspace).stdout
    assert "winner, class 0" in shown and len(re.findall(r"(?m)^calls \d ", shown)) == 5


def test_requests_of_others_run_to_the_end(workspace: Path) -> None:
    path = ROOT.parent / "shared/data/taskbench/taskbench/data_dailylifeapis/user_requests.json"
    if not path.exists():
        pytest.skip(f"real data are not here: {path}")
    done = run_factory(
        "round", "--n", "24", "--queries", str(path), "--set", "train.min_accepted=100",
        cwd=workspace, code=1,
    )  # fmt: skip
    assert "24 drawn" in done.stdout and "not trained" in done.stdout
    check_books(workspace, 1, 24)


def test_model_without_its_code_tokens(workspace: Path, tmp_path: Path) -> None:
    model = tmp_path / "broken"
    shutil.copytree(ROOT / "rounds" / "seed", model)
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    for token in tokenizer["added_tokens"]:
        if token["content"] == "<a_0>":
            token["content"] = "<gone>"
    (model / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    done = run_factory("round", "--n", "4", "--model", str(model), cwd=workspace, code=2)
    assert "<a_0>" in done.stderr and "remedy" in done.stderr


def test_full_disk_stops_with_the_remedy(workspace: Path) -> None:
    """A round whose ledger meets a full disk says so, and loses nothing that was finished."""
    small = workspace / ".factory"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode()}")
    try:
        (small / "ballast").write_bytes(b"\0" * (100 << 20))
        done = run_factory("round", "--n", "4", cwd=workspace, code=3)
        assert "GiB are free" in done.stderr and "remedy" in done.stderr
        (small / "ballast").unlink()
        run_factory("status", cwd=workspace)
    finally:
        subprocess.run(["umount", str(small)], check=True)

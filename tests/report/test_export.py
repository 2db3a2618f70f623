"""Exports: field names of each format, and arguments that survive Arrow byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workspaces import ROOT, make_workspace, run_factory

from factory.domain.canon import to_json
from factory.ledger.database import Ledger
from factory.report.export import CallText, split_calls

ARGUMENTS = [
    '{"x": 1e400, "y": -0.0}',
    '{"x": 5.0, "y": 5}',
    '{"y": 5, "x": "5"}',
    '{"x": 123456789012345678901234567890, "y": 0.30000000000000004}',
    '{"x": {"b": null, "a": [null, {"c": {}}, []]}}',
    '{"x": "naïve 😀 \\u00e9 \\ud83d\\ude00 \\"quoted\\" \\\\ \\n"}',
    "{}",
    '{"x":[1,2.50,"a"],"z": {"deep" : {"er": [{"k": 1}, {"k": "v", "l": null}]}}}',
    '{"": 1.7976931348623157e308, "a b": 2.2250738585072014e-308, "y": 1E5}',
]
"""What Arrow structs, or a parser and a printer, would change."""
QUERY = "Do it “now” \n 😀"


def tool(name: str) -> dict[str, Any]:
    properties = {
        "x": {"type": "float", "description": "An x.", "default": 5.0, "enum": [5, 5.0, None]},
        "y": {"type": "List[int]", "description": "Some y."},
    }
    return {
        "name": name,
        "description": f"The tool {name}.",
        "arguments": {"type": "dict", "properties": properties, "required": ["x"]},
        "results": {"type": "dict", "properties": {}},
    }


def calls_json(*arguments: str) -> str:
    calls = (f'{{"name": "tool_{n}", "arguments": {text}}}' for n, text in enumerate(arguments))
    return f"[{', '.join(calls)}]"


SAMPLES = [[text] for text in ARGUMENTS] + [ARGUMENTS[:3]]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten accepted samples of round 1, the last with three calls, and one that fell."""
    root = make_workspace(tmp_path_factory.mktemp("export") / "ws").root
    common = {"round": 1, "judgement": 1, "agreement": 0.6}
    Ledger(root / ".factory").append(
        {
            "query": [{"query_id": f"q_{n}", "text": QUERY} for n in range(11)],
            "sample": [
                common
                | {
                    "query_id": f"q_{n}",
                    "status": "accepted",
                    "tools_json": to_json(
                        [{"id": f"t_{k}", "document": tool(f"tool_{k}")} for k in range(3)]
                    ),
                    "calls_json": calls_json(*arguments),
                }
                for n, arguments in enumerate(SAMPLES)
            ]
            + [common | {"query_id": "q_10", "status": "rejected"}],
        }
    )
    return root


def exported(workspace: Path, to: str, name: str, *options: str) -> Path:
    path = workspace / name
    run_factory("export", to, str(path), "--force", *options, cwd=workspace)
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def load(path: Path, tmp_path: Path) -> Any:
    """The file as `datasets` reads it, through Arrow."""
    import datasets

    datasets.disable_progress_bars()
    kind = "parquet" if path.suffix == ".parquet" else "json"
    return datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path))


def messages_arguments(row: dict[str, Any], key: str = "messages") -> list[str]:
    return [call["function"]["arguments"] for call in row[key][-1]["tool_calls"]]


# -- byte for byte ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trl.jsonl", "trl.parquet"])
def test_trl_keeps_arguments_through_arrow(workspace: Path, tmp_path: Path, name: str) -> None:
    rows = load(exported(workspace, "trl", name), tmp_path)
    assert [messages_arguments(row) for row in rows] == SAMPLES
    for row in rows:
        assert row["messages"][0]["role"] == "user" and row["messages"][0]["content"] == QUERY
        schema = json.loads(row["tools"])[0]["function"]["parameters"]
        assert to_json(schema["properties"]["x"]["enum"]) == "[5, 5.0, null]"
        assert schema["type"] == "object" and schema["properties"]["x"]["type"] == "number"
        assert schema["properties"]["y"]["items"] == {"type": "integer"}


def test_sharegpt_keeps_arguments_through_arrow(workspace: Path, tmp_path: Path) -> None:
    rows = load(exported(workspace, "sharegpt", "s.jsonl"), tmp_path)
    for row, arguments in zip(rows, SAMPLES, strict=True):
        assert [turn["from"] for turn in row["conversations"]] == ["human", "function_call"]
        value = row["conversations"][1]["value"]
        whole = calls_json(*arguments)
        assert value == (whole if len(arguments) > 1 else whole[1:-1])
        assert set(json.loads(row["tools"])[0]) == {"name", "description", "parameters"}


def test_xlam_keeps_arguments_through_arrow(workspace: Path, tmp_path: Path) -> None:
    rows = load(exported(workspace, "xlam", "x.jsonl"), tmp_path)
    assert [row["answers"] for row in rows] == [calls_json(*arguments) for arguments in SAMPLES]
    assert [row["id"] for row in rows] == list(range(len(SAMPLES)))
    parameters = json.loads(rows[0]["tools"])[0]["parameters"]
    assert parameters["x"]["type"] == "float" and parameters["x"]["default"] == 5.0
    assert parameters["y"] == {
        "type": "List[int], optional",
        "description": "Some y.",
        "items": {"type": "integer"},
    }


def test_parquet_keeps_rows_and_types(workspace: Path, tmp_path: Path) -> None:
    rows = load(exported(workspace, "parquet", "p.parquet"), tmp_path)
    assert [row["calls_json"] for row in rows] == [calls_json(*arguments) for arguments in SAMPLES]
    assert rows.column_names == [
        *("round", "query_id", "query", "tools_json", "calls_json", "agreement", "made_by")
    ]
    assert str(rows.features["round"].dtype) == "int32" and rows[0]["agreement"] == 0.6


def test_openai_lines_have_the_fields_of_the_api(workspace: Path) -> None:
    rows = lines_of(exported(workspace, "openai", "o.jsonl"))
    assert [messages_arguments(row) for row in rows] == SAMPLES
    for row in rows:
        assert set(row) == {"messages", "tools", "parallel_tool_calls"}
        user, assistant = row["messages"]
        assert set(user) == {"role", "content"} and set(assistant) == {"role", "tool_calls"}
        ids = [call["id"] for call in assistant["tool_calls"]]
        assert len(set(ids)) == len(ids)
        assert row["parallel_tool_calls"] == (len(ids) > 1)
        assert row["tools"][0]["type"] == "function"
        assert row["tools"][0]["function"]["parameters"]["type"] == "object"


def test_a_struct_column_would_corrupt_arguments(tmp_path: Path) -> None:
    """What the text prevents: other calls' keys appear as null, and numbers change their kind."""
    import pyarrow as pa
    from datasets import Dataset
    from pyarrow.json import read_json

    calls = [{"arguments": {"x": 5, "unit": "km"}}, {"arguments": {"y": None}}, {"arguments": {}}]
    assert Dataset.from_list(calls).to_list()[2] == {
        "arguments": {"x": None, "unit": None, "y": None}
    }
    mixed = pa.array([{"x": 5}, {"x": 5.5}])
    assert to_json(mixed.to_pylist()) == '[{"x": 5.0}, {"x": 5.5}]'
    with pytest.raises(OverflowError):
        pa.array([json.loads(ARGUMENTS[3])])
    file = tmp_path / "objects.jsonl"
    file.write_text('{"a": {"p": 1}}\n{"a": {"q": 2.2250738585072014e-308}}\n', encoding="utf-8")
    assert read_json(file)["a"].to_pylist()[0] == {"p": 1, "q": None}
    # `datasets` 5 stores such objects as JSON text itself, but its parser rounds.
    assert load(file, tmp_path)[1]["a"]["q"] != 2.2250738585072014e-308


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.lists(st.tuples(st.text(), st.dictionaries(st.text(), JSON, max_size=3)), max_size=4),
    st.integers(0, 3),
)
def test_calls_are_split_into_slices_of_their_text(
    calls: list[tuple[str, dict[str, Any]]], indent: int
) -> None:
    text = json.dumps(
        [{"name": name, "arguments": arguments} for name, arguments in calls],
        indent=indent or None,
        ensure_ascii=False,
    )
    found = split_calls(text)
    assert [call.name for call in found] == [name for name, _ in calls]
    assert all(call.arguments in text for call in found)
    assert [json.loads(call.arguments) for call in found] == [given_ for _, given_ in calls]


def test_splitting_parses_no_number() -> None:
    assert split_calls('[ {"arguments" : {"x":1e400 } , "name":"f"} ]') == [
        CallText("f", '{"x":1e400 }')
    ]


# -- preference pairs ------------------------------------------------------------------------------

LOST = ['{"x": 1}', '{"x": "one"}', '{"x": 2}']


def answer(arguments: str) -> str:
    return f'<tool_call>\n{{"name": "tool_0", "arguments": {arguments}}}\n</tool_call>'


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Round 1: q_0 is unanimous; q_1 has three losing classes, two of them fell by a rule.
    Round 2: q_2 has one losing class that cannot be read, and q_3 fell."""
    root = make_workspace(tmp_path_factory.mktemp("voted") / "ws").root
    won = '{"x": 5.0}'
    answers = {
        (1, "q_0"): [won] * 3,
        (1, "q_1"): [won, LOST[0], won, LOST[1], won, LOST[2], LOST[0]],
        (2, "q_2"): [won, None, won],
        (2, "q_3"): [won, LOST[0], won],
    }
    classes = {
        "q_0": [0, 0, 0],
        "q_1": [0, 1, 0, 2, 0, 3, 1],
        "q_2": [0, 1, 0],
        "q_3": [0, 1, 0],
    }
    tools = to_json([{"id": "t", "document": tool("tool_0")}])
    batch: dict[str, list[dict[str, object]]] = {"sample": [], "vote": [], "generation": []}
    for (number, query), texts in answers.items():
        key = {"round": number, "query_id": query}
        status = "rejected" if query == "q_3" else "accepted"
        batch["sample"].append(
            key
            | {"judgement": 1, "status": status, "tools_json": tools, "calls_json": calls_json(won)}
        )
        batch["vote"].append(
            key | {"winner": 0, "votes": 3, "classes_json": json.dumps(classes[query])}
        )
        batch["generation"] += [
            key
            | {
                "stage": "calls",
                "sample_index": index,
                "text": "I cannot." if text is None else answer(text),
                "finish_reason": "stop",
            }
            for index, text in enumerate(texts)
        ]
    Ledger(root / ".factory").append(
        {
            **batch,
            "query": [{"query_id": f"q_{n}", "text": f"query {n}"} for n in range(4)],
            "verdict": [
                {
                    "round": 1,
                    "judgement": judgement,
                    "query_id": "q_1",
                    "subject": f"sample:{n}",
                    "severity": severity,
                }
                for judgement, n, severity in (
                    *((1, 3, "reject"), (1, 5, "reject"), (1, 1, "warn")),
                    (0, 1, "reject"),
                )
            ],
        }
    )
    return root


def test_the_losing_answer_that_a_rule_rejects_comes_first(voted: Path) -> None:
    rows = lines_of(exported(voted, "dpo", "d.jsonl"))
    assert [row["prompt"][0]["content"] for row in rows] == ["query 1", "query 2"]
    assert set(rows[0]) == {"prompt", "chosen", "rejected", "tools"}
    assert messages_arguments(rows[0], "chosen") == ['{"x": 5.0}']
    assert messages_arguments(rows[0], "rejected") == [LOST[1]]
    assert rows[1]["rejected"] == [{"role": "assistant", "content": "I cannot."}]


def test_more_pairs_of_one_query_on_demand(voted: Path) -> None:
    rows = lines_of(exported(voted, "dpo", "d.jsonl", "--pairs", "9", "--round", "1"))
    lost = [messages_arguments(row, "rejected")[0] for row in rows]
    assert lost == [LOST[1], LOST[2], LOST[0]]
    rows = lines_of(exported(voted, "dpo", "d.jsonl", "--pairs", "9", "--limit", "2"))
    assert len(rows) == 2


def test_preferences_survive_arrow(voted: Path, tmp_path: Path) -> None:
    for name in ("d.jsonl", "d.parquet"):
        first, second = load(exported(voted, "dpo", name), tmp_path / name)
        assert messages_arguments(first, "chosen") == ['{"x": 5.0}']
        assert messages_arguments(first, "rejected") == [LOST[1]]
        assert second["rejected"][0]["content"] == "I cannot."
        assert not second["rejected"][0].get("tool_calls")


# -- the command -----------------------------------------------------------------------------------


def test_a_file_is_written_over_only_with_force(workspace: Path) -> None:
    path = workspace / "once.jsonl"
    path.write_text("mine", encoding="utf-8")
    done = run_factory("export", "trl", str(path), cwd=workspace, code=2)
    assert "--force" in done.stderr and path.read_text(encoding="utf-8") == "mine"
    exported(workspace, "trl", "once.jsonl")
    assert len(lines_of(path)) == len(SAMPLES)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["trl", "n.jsonl", "--round", "7"], "nothing is accepted in round 7"),
        (["dpo", "n.jsonl"], "no accepted sample has a losing answer"),
        (["openai", "n.parquet"], "written to .jsonl files"),
        (["parquet", "n.jsonl"], "written to .parquet files"),
        (["alpaca", "n.jsonl"], "alpaca"),
    ],
)
def test_what_cannot_be_exported_leaves_no_file(
    workspace: Path, options: list[str], said: str
) -> None:
    before = set(workspace.iterdir())
    done = run_factory("export", *options, cwd=workspace, code=2)
    assert said in done.stderr and set(workspace.iterdir()) == before


def test_a_full_disk_leaves_the_old_file(workspace: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    path.write_text("old", encoding="utf-8")
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
    run = "import sys; sys.argv[0] = 'factory'; from factory.cli.main import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", limited + run, "export", "trl", str(path), "--force"],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3 and "cannot be written" in done.stderr
    assert path.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [path]
    done = run_factory("export", "trl", str(tmp_path / "no" / "x.jsonl"), cwd=workspace, code=3)
    assert "cannot be written" in done.stderr


def test_openai_leaves_out_names_that_the_api_refuses(tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "ws").root
    names = ("fine_name", "has space")
    Ledger(root / ".factory").append(
        {
            "sample": [
                {
                    "round": 1,
                    "judgement": 1,
                    "query_id": f"q_{n}",
                    "status": "accepted",
                    "tools_json": to_json([{"id": "t", "document": tool(name)}]),
                    "calls_json": calls_json("{}"),
                }
                for n, name in enumerate(names)
            ]
        }
    )
    done = run_factory("export", "openai", "o.jsonl", cwd=root, code=1)
    assert "q_1" in done.stderr and "has space" in done.stderr
    assert len(lines_of(root / "o.jsonl")) == 1


# -- the real trainers -----------------------------------------------------------------------------

TEMPLATE = (
    "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}"
    "[{{ c.function.name }} "
    "{% set given = c.function.arguments %}{{ given if given is string else given | tojson }}]"
    "{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def quiet_trainers() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.slow
def test_trl_trains_on_both_formats(voted: Path, tmp_path: Path, quiet_trainers: None) -> None:
    from conftest_models import tiny_model
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    folder = tiny_model(tmp_path / "model", max_positions=2048)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    common: dict[str, Any] = {
        "output_dir": str(tmp_path / "out"),
        "max_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "max_length": None,
        "gradient_checkpointing": False,
        "bf16": False,
    }
    rows = load(exported(voted, "trl", "t.jsonl"), tmp_path)
    sft = SFTTrainer(
        str(folder), SFTConfig(**common), train_dataset=rows, processing_class=tokenizer
    )
    text = tokenizer.decode(sft.train_dataset[0]["input_ids"])
    assert '[tool_0 {"x": 5.0}]' in text and '"parameters"' in text
    sft.train()
    rows = load(exported(voted, "dpo", "d.jsonl"), tmp_path)
    dpo = DPOTrainer(
        str(folder), args=DPOConfig(**common), train_dataset=rows, processing_class=tokenizer
    )
    first = dpo.train_dataset[0]
    assert '[tool_0 {"x": 5.0}]' in tokenizer.decode(first["chosen_ids"])
    assert f"[tool_0 {LOST[1]}]" in tokenizer.decode(first["rejected_ids"])
    dpo.train()

"""Looking into the ledger: sql in its forms, rejects with its filters, show with its marks."""

from __future__ import annotations

import csv
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text
from workspaces import ROOT, make_workspace, run_factory

from factory.cli.jsonview import MAX_LINES, Remark, lay_out, side_by_side
from factory.cli.sql import jsonable
from factory.cli.terminal import escape, inline, print_table
from factory.domain.jsontext import json_path
from factory.domain.plaintext import clean
from factory.ledger.database import Ledger
from factory.ledger.schema import stock_questions

EVIL = (
    "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\u2066\u200b\ufeff\r\n\tsecond line [red]x[/] \U000e0041"
)
FORBIDDEN = "\x1b\x07\r\u202e\u2066\u200b\ufeff\U000e0041"


def document(name: str, **types: str) -> dict[str, object]:
    properties = {key: {"type": kind, "description": key} for key, kind in types.items()}
    arguments = {"type": "dict", "properties": properties, "required": sorted(types)}
    return {"name": name, "description": f"Do {name}.", "arguments": arguments, "results": {}}


def answer(*calls: tuple[str, dict[str, object]]) -> str:
    return "\n".join(
        "<tool_call>\n" + json.dumps({"name": name, "arguments": given_}) + "\n</tool_call>"
        for name, given_ in calls
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Round 1 with four samples: two fell in the calls, one in the vote, one is accepted."""
    root = make_workspace(tmp_path_factory.mktemp("looking") / "ws").root
    book = document("book_table", people="integer", day="string")
    tools = json.dumps([{"id": "t_1", "document": book}])
    texts = [
        answer(("book_table", {"people": "4", "day": "Friday"})),
        answer(("book_table", {"people": "4", "day": "Friday"})),
        answer(("book_table", {"people": 4, "day": "Friday"})),
        "<tool_call>{broken",
        answer(("book_table", {"people": "4", "day": "Friday"})),
    ]
    fell = {"round": 1, "judgement": 1, "status": "rejected", "stage": "calls", "tools_json": tools}
    finding = {
        "rule": "call/wrong_type",
        "reason": "wrong_type",
        "path": "$[0].arguments.people",
        "message": '"4" is a string, not an integer',
    }
    wrong = {"round": 1, "judgement": 1, "query_id": "q_1", "severity": "reject"}
    Ledger(root / ".factory").append(
        {
            "round": [{"round": 1}],
            "draw": [{"round": 1, "position": n, "query_id": f"q_{n}"} for n in range(1, 5)],
            "query": [
                {"query_id": "q_1", "text": "A table for 4 on Friday", "source": "a:1"},
                {"query_id": "q_2", "text": "100 % of it_all", "source": "a:2"},
                {"query_id": "q_3", "text": EVIL * 3, "source": EVIL},
                {"query_id": "q_4", "text": "Fine", "source": "a:4"},
            ],
            "sample": [
                fell | finding | {"query_id": "q_1", "calls_json": "[]", "agreement": 0.6},
                fell
                | finding
                | {"query_id": "q_3", "message": EVIL, "path": EVIL, "calls_json": "[]"},
                fell
                | {
                    "query_id": "q_2",
                    "stage": "vote",
                    "rule": "vote/vote_tie",
                    "reason": "vote_tie",
                    "path": "$",
                    "message": "none leads",
                    "tools_json": "[]",
                    "calls_json": '[{"name": "other_tool", "arguments": {}}]',
                },
                fell
                | {"query_id": "q_4", "status": "accepted", "calls_json": "[]", "agreement": 1.0},
            ],
            "generation": [
                {
                    "round": 1,
                    "query_id": "q_1",
                    "stage": "calls",
                    "subject": "",
                    "sample_index": n,
                    "text": text,
                    "finish_reason": "stop",
                    "num_tokens": 9,
                    "logprob": -1.0,
                }
                for n, text in enumerate(texts)
            ],
            "vote": [
                {
                    "round": 1,
                    "query_id": "q_1",
                    "num_samples": 5,
                    "winner": 0,
                    "votes": 3,
                    "margin": 0.4,
                    "entropy": 1.37,
                    "decided_by": "strict",
                    "classes_json": "[0, 0, 1, 2, 0]",
                }
            ],
            "verdict": [
                *(wrong | finding | {"subject": f"sample:{n}"} for n in (0, 1, 4)),
                wrong
                | {
                    "subject": "sample:3",
                    "rule": "call/call_json",
                    "reason": "call_json",
                    "path": "$[0]",
                    "message": "not JSON",
                },
            ],
        }
    )
    return root


# -- sql -------------------------------------------------------------------------------------------

TYPES = """
select 1.50::decimal(9, 2) as price, 12345678901234567.89::decimal(19, 2) as exact,
  timestamp '2026-01-02 03:04:05.5' as at, date '2026-01-02' as day, null as nothing,
  123456789012345678901234567890::hugeint as big, true as yes, 'nan'::double as odd, 5.0 as five,
  [1, null] as list, {'a': 'x'} as struct, map {'k': 1} as map, '\\x00\\xff'::blob as bytes,
  interval 1 day as span
"""


def test_json_keeps_types(workspace: Path) -> None:
    (line,) = run_factory("sql", TYPES, "--json", cwd=workspace).stdout.splitlines()
    assert json.loads(line) == {
        "price": 1.5,
        "exact": "12345678901234567.89",
        "at": "2026-01-02T03:04:05.500000",
        "day": "2026-01-02",
        "nothing": None,
        "big": 123456789012345678901234567890,
        "yes": True,
        "odd": "nan",
        "five": 5.0,
        "list": [1, None],
        "struct": {"a": "x"},
        "map": {"k": 1},
        "bytes": "00ff",
        "span": "1 day, 0:00:00",
    }


def test_csv_and_markdown(workspace: Path) -> None:
    sql = "select query_id, text, agreement from sample join query using (query_id) order by 1"
    done = run_factory("sql", sql, "--csv", cwd=workspace)
    rows = list(csv.reader(io.StringIO(done.stdout, newline="")))
    assert rows[1] == ["q_1", "A table for 4 on Friday", "0.6"]
    assert rows[3] == ["q_3", EVIL.replace("\r\n", "\n") * 3, ""]
    assert list(csv.reader(io.StringIO(run_factory("sql", TYPES, "--csv", cwd=workspace).stdout)))[
        1
    ][2:7] == ["2026-01-02T03:04:05.500000", "2026-01-02", "", str(int("1234567890" * 3)), "true"]
    lines = run_factory("sql", sql, "--markdown", cwd=workspace).stdout.splitlines()
    assert lines[:3] == [
        "| query_id | text | agreement |",
        "| --- | --- | ---: |",
        "| q_1 | A table for 4 on Friday | 0.6 |",
    ]
    assert len(lines) == 6 and "\\[red\\]x" in lines[4]
    assert not set(FORBIDDEN) & set("".join(lines))
    cell = run_factory("sql", "select 'a|b <b> `c` *d*' as x", "--markdown", cwd=workspace).stdout
    assert cell.splitlines()[2] == "| a\\|b &lt;b&gt; \\`c\\` \\*d\\* |"


def test_forms_exclude_each_other(workspace: Path) -> None:
    done = run_factory("sql", "select 1", "--csv", "--json", cwd=workspace, code=2)
    assert "--json and --csv" in done.stderr


def test_without_a_query_views_and_questions_are_listed(workspace: Path) -> None:
    shown = run_factory("sql", cwd=workspace, environment={"COLUMNS": "1000"}).stdout
    lines = [line.strip() for line in shown.splitlines()]
    columns = lines[lines.index("rejected") + 1]
    assert columns.startswith("round, query_id, query, stage, reason, rule, path, message")
    assert lines[lines.index("rejected") + 2].startswith("Samples that fell")
    assert lines[lines.index("draw") + 1] == "round, position, query_id, chosen"
    records = [
        json.loads(line) for line in run_factory("sql", "--json", cwd=workspace).stdout.splitlines()
    ]
    (view,) = [record for record in records if record["name"] == "vote_margin"]
    assert view["columns"][1] == {"name": "margin", "type": "DOUBLE"} and view["description"]


def test_every_stock_question_runs_as_printed(workspace: Path) -> None:
    shown = run_factory("sql", cwd=workspace).stdout.splitlines()
    printed = [line.strip() for line in shown if line.strip().startswith("factory sql")]
    assert len(printed) == len(stock_questions()) >= 10
    ledger = Ledger(workspace / ".factory")
    for line, question in zip(printed, stock_questions(), strict=True):
        assert not set('"`$\\') & set(question.sql), question.title
        command, name, sql = shlex.split(line)
        assert (command, name, sql) == ("factory", "sql", question.sql)
        assert ledger.query(sql).columns, question.title
    run_factory(*shlex.split(printed[1])[1:], cwd=workspace)


PEAK = """
import os, resource, subprocess, sys
with open(os.devnull, "w") as sink:
    subprocess.run([sys.executable, "-m", "factory", "sql", *sys.argv[1:]], stdout=sink, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


@pytest.mark.parametrize("form", ["--json", "--csv", "--markdown"])
def test_rows_are_streamed(workspace: Path, form: str) -> None:
    def peak_mib(num_rows: int) -> float:
        sql = f"select range as n, repeat('x', 400) || range as t from range({num_rows})"
        command = [sys.executable, "-c", PEAK, sql, form]
        environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
        done = subprocess.run(
            command, cwd=workspace, env=environment, capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    # As a list of rows, 200,000 of these take 100 MiB.
    assert peak_mib(200_000) - peak_mib(10) < 40


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.binary(), st.lists))
def test_every_value_has_a_json_form(value: object) -> None:
    json.dumps(jsonable(value), allow_nan=False)


# -- rejects ---------------------------------------------------------------------------------------


def fallen(workspace: Path, *options: str) -> list[dict[str, object]]:
    done = run_factory("rejects", *options, "--json", cwd=workspace)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_rejects_are_counted_with_shares_and_an_example(workspace: Path) -> None:
    first, second = fallen(workspace)
    assert (first["reason"], first["samples"], first["percent"]) == ("wrong_type", 2, 66.7)
    assert first["example"] == "q_1" and first["message"] == '"4" is a string, not an integer'
    assert (second["reason"], second["percent"]) == ("vote_tie", 33.3)


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--samples"], ["q_1", "q_2", "q_3"]),
        (["--reason", "wrong_type"], ["q_1", "q_3"]),
        (["--rule", "vote/vote_tie"], ["q_2"]),
        (["--rule", "call/*"], ["q_1", "q_3"]),
        (["--rule", "call/wrong_type", "--text", "nothing"], []),
        (["--samples", "--tool", "book_table"], ["q_1", "q_3"]),
        (["--samples", "--tool", "other_tool"], ["q_2"]),
        (["--samples", "--tool", "book"], []),
        (["--samples", "--text", "FRIDAY"], ["q_1"]),
        (["--samples", "--text", "%"], ["q_2"]),
        (["--samples", "--text", "t_a"], ["q_2"]),
        (["--samples", "--text", "'; drop"], []),
        (["--samples", "--round", "1", "--text", "FRIDAY"], ["q_1"]),
        (["--samples", "--limit", "2"], ["q_1", "q_2"]),
    ],
)
def test_rejects_are_filtered(workspace: Path, options: list[str], ids: list[str]) -> None:
    assert [row["query_id"] for row in fallen(workspace, *options)] == ids


def test_what_was_filtered_for_is_said_where_nothing_is_found(workspace: Path) -> None:
    done = run_factory("rejects", "--tool", "x\x1b[1m", "--text", "y", cwd=workspace)
    assert done.stdout == "round 1: nothing was rejected with tool x\\x1b[1m, text y\n"


@pytest.mark.parametrize(
    ("options", "what", "remedy"),
    [
        (["--round", "99"], "there is no round 99", "--round 1 to --round 1"),
        (["--round", "-1"], "there is no round -1", "--round 1 to --round 1"),
        (["--rule", "call/wrong_typ"], "no rule is called", "did you mean call/wrong_type?"),
        (["--rule", "call"], "no rule is called", "`factory rules` lists all"),
        (["--reason", "wrong_typ", "--json"], "no reason is called", "did you mean wrong_type?"),
    ],
)
def test_what_rejects_cannot_have_is_an_error(
    workspace: Path, options: list[str], what: str, remedy: str
) -> None:
    done = run_factory("rejects", *options, cwd=workspace, code=2)
    assert what in done.stderr and remedy in done.stderr and not done.stdout


@given(st.text(st.sampled_from("\\[]/ab@#.= é"), max_size=12), st.sampled_from(["", "[dim]x[/]"]))
def test_printed_text_keeps_its_backslashes_and_brackets(text: str, after: str) -> None:
    assert Text.from_markup(escape(text) + after).plain == text + ("x" if after else "")


def test_times_with_a_zone_are_answered_in_utc(workspace: Path) -> None:
    noon = "timestamptz '2024-05-01 12:00:00+02'"
    query = f"select now() > '2020-01-01' as ok, {noon} as noon, [{noon}] as more"
    (row,) = run_factory("sql", query, "--json", cwd=workspace).stdout.splitlines()
    assert json.loads(row)["ok"] is True and json.loads(row)["noon"] == "2024-05-01T10:00:00"
    assert "2024" in run_factory("sql", query + ";", cwd=workspace).stdout
    run_factory("sql", "select now()", cwd=workspace)


def test_a_terminal_that_lacks_letters_shows_escapes(workspace: Path) -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for command in (["--help"], ["rules"], ["rejects"], ["sql", "select 'é…' as é"]):
        done = run_factory(*command, cwd=workspace, environment=ascii_only)
        assert done.stdout.isascii()
    assert "\\xe9\\u2026" in done.stdout
    assert (
        "error:" in run_factory("é", cwd=workspace, environment=ascii_only, code=2).stderr.lower()
    )


# -- show ------------------------------------------------------------------------------------------


def test_answers_stand_side_by_side_and_findings_below_their_part(workspace: Path) -> None:
    lines = run_factory(
        "show", "q_1", cwd=workspace, environment={"COLUMNS": "150"}
    ).stdout.splitlines()
    (head,) = [line for line in lines if "winner" in line]
    assert [cell.strip() for cell in head.split("│")] == [
        "winner, class 0: 3 votes, samples 0 1 4",
        "class 1: 1 vote, sample 2",
        "class 2: 1 vote, sample 3",
    ]
    below = [[c.strip() for c in line.split("│")] for line in lines[lines.index(head) :]]
    won = [row[0] for row in below]
    part = won.index('"people": "4",')
    assert won[part + 1].startswith("^ wrong_type:")
    assert won.count(won[part + 1]) == 1
    assert '"arguments": {"people": 4, "day": "Friday"}' in [row[1] for row in below if row[1:]]
    broken = [row[2] for row in below if row[2:]]
    assert broken[1] == "<tool_call>{broken" and broken[2] == "^ call_json: not JSON"
    assert "wrong_type" in "\n".join(lines[: lines.index(head)])


def test_tables_grow_wider_than_the_terminal_before_a_short_cell_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    cell = "100.0 [100.0, 100.0]"
    print_table(("metric", "one", "two", "three"), [("ndcg_hits@5", cell, cell, cell)])
    assert capsys.readouterr().out.splitlines()[1].split("  ") == ["ndcg_hits@5", cell, cell, cell]


def test_narrow_terminals_get_one_answer_below_the_other(workspace: Path) -> None:
    narrow = run_factory("show", "q_1", cwd=workspace, environment={"COLUMNS": "60"}).stdout
    assert "│" not in narrow and narrow.count("class ") == 3
    answers = narrow[narrow.index("winner") :].splitlines()
    assert all(len(line) <= 60 for line in answers)


def test_raw_outputs_are_shown_on_demand(workspace: Path) -> None:
    assert "logprob" not in run_factory("show", "q_1", cwd=workspace).stdout
    assert run_factory("show", "q_1", "--raw", cwd=workspace).stdout.count("logprob -1.00") == 5


@pytest.mark.parametrize(
    "command", [["show", "q_3"], ["show", "q_3", "--raw"], ["rejects", "--samples"], ["rejects"]]
)
def test_hostile_text_is_harmless(workspace: Path, command: list[str]) -> None:
    shown = run_factory(*command, cwd=workspace).stdout
    assert not set(FORBIDDEN) & set(shown)
    if "q_3" in command or "--samples" in command:
        assert "\\x1b]0;owned\\x07" in shown and "[red]x[/]" in shown


def test_huge_strings_are_cut_with_their_length(tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "ws").root
    text = answer(("f", {"x": "y" * 1_000_000}))[:-5]
    Ledger(root / ".factory").append(
        {
            "draw": [{"round": 1, "position": 0, "query_id": "q_1"}],
            "query": [{"query_id": "q_1", "text": "huge", "source": "s"}],
            "generation": [
                {"query_id": "q_1", "stage": "calls", "subject": "", "sample_index": n, "text": t}
                for n, t in enumerate((text, "<tool_call>" + "z" * 500_000))
            ],
        }
    )
    shown = run_factory("show", "q_1", "--raw", cwd=root).stdout
    assert len(shown) < 40_000 and "characters" in shown
    record = json.loads(run_factory("show", "q_1", "--json", cwd=root).stdout)
    assert record["generation"][0]["text"] == text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner),
    max_leaves=20,
)


@given(VALUES, st.integers(min_value=24, max_value=120), st.data())
def test_every_mark_is_shown_and_every_line_fits(
    value: object, width: int, data: st.DataObject
) -> None:
    parts: list[tuple[str | int, ...]] = [()]

    def walk(part: object, path: tuple[str | int, ...]) -> None:
        children = (
            list(part.items())
            if isinstance(part, dict)
            else list(enumerate(part))
            if isinstance(part, list)
            else []
        )
        for key, child in children:
            parts.append((*path, key))
            walk(child, (*path, key))

    walk(value, ())
    chosen = data.draw(st.lists(st.sampled_from(parts), max_size=3))
    marks = [
        Remark(path=json_path(path), severity="reject", text=f"m{n}")
        for n, path in enumerate(chosen)
    ]
    lines = [line.plain for line in lay_out(value, marks, width)]
    assert len(lines) <= MAX_LINES + 1
    if len(lines) <= MAX_LINES:
        found = [line.strip() for line in lines if line.strip().startswith("^ m")]
        assert sorted(found) == sorted(f"^ {mark.text}" for mark in marks)
    text = "\n".join(lines)
    assert clean(text) == text


def test_a_mark_of_something_missing_stands_at_the_innermost_part_there_is() -> None:
    value = [{"name": "f", "arguments": {"a": 1}}]
    mark = Remark(path="$[0].arguments.b", severity="reject", text="missing")
    lines = [line.plain for line in lay_out(value, [mark], 60)]
    assert lines == [
        "[",
        "  {",
        '    "name": "f",',
        '    "arguments": {"a": 1}',
        "    ^ missing",
        "  }",
        "]",
    ]


def test_columns_keep_their_width_whatever_is_in_them() -> None:
    columns = [[Text("日本"), Text("b")], [Text("ccc")]]
    assert [line.plain for line in side_by_side(columns, 5)] == ["日本  │ ccc", "b     │"]


def test_inline_text_has_no_line_breaks() -> None:
    assert inline("a\nb\tc\u2028d\u202ee") == "a\\nb\\tc\\u2028d\\u202ee"

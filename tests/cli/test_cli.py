"""Whole commands in temporary workspaces: what a person types and gets, bad input above all."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from conftest_models import tiny_model
from workspaces import ROOT, make_workspace, run_factory

from factory.cli.app import DISK_FAULTS, print_unexpected
from factory.cli.commands import COMMANDS, Entry, load
from factory.ledger.database import Ledger
from factory.ledger.lock import WorkspaceLock


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_workspace(tmp_path / "ws").root


def use_model(workspace: Path, model: Path) -> None:
    marker = workspace / "factory.toml"
    lines = marker.read_text(encoding="utf-8").splitlines()
    lines = [f'model = "{model}"' if line.startswith("model") else line for line in lines]
    marker.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(("name", "entry"), COMMANDS.items(), ids=COMMANDS)
def test_the_table_has_each_commands_line_of_help_and_its_help_an_example(
    name: str, entry: Entry
) -> None:
    text = load(name, entry).help or ""
    assert " ".join(text.split("\n\n")[0].split()) == entry.help
    assert f"factory {name}" in text


def test_init_then_doctor(tmp_path: Path) -> None:
    run_factory("init", str(tmp_path / "new"), cwd=tmp_path)
    done = run_factory("doctor", "--json", cwd=tmp_path / "new")
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert {finding["name"] for finding in findings} >= {"python", "engine", "model", "ledger"}
    assert all(finding["remedy"] for finding in findings if finding["state"] == "bad")
    again = run_factory("init", str(tmp_path / "new"), cwd=tmp_path, code=2)
    assert "already" in again.stderr


def test_outside_a_workspace(tmp_path: Path) -> None:
    done = run_factory("status", cwd=tmp_path, code=2)
    assert "factory init" in done.stderr


def test_empty_ledger_answers(workspace: Path) -> None:
    assert "factory round" in run_factory("status", cwd=workspace).stdout
    done = run_factory("sql", "select count(*) as n from sample", "--json", cwd=workspace)
    assert json.loads(done.stdout) == {"n": 0}
    assert "no round yet" in run_factory("rejects", cwd=workspace, code=2).stderr


def test_check_names_the_value_that_it_cannot_change(workspace: Path) -> None:
    values = ("--set", "vote.minimum=2", "--set", "calls.n=7")
    assert "calls.n does not change" in run_factory("check", *values, cwd=workspace, code=2).stderr


def test_sql_forms_and_limits(workspace: Path) -> None:
    Ledger(workspace / ".factory").append(
        {"query": [{"query_id": f"q_{n}", "text": f'a,"{n}"'} for n in range(3)]}
    )
    sql = "select query_id, text from query order by 1"
    rows = [
        json.loads(line)
        for line in run_factory("sql", sql, "--json", cwd=workspace).stdout.splitlines()
    ]
    assert rows[2] == {"query_id": "q_2", "text": 'a,"2"'}
    table = list(csv.reader(io.StringIO(run_factory("sql", sql, "--csv", cwd=workspace).stdout)))
    assert table[0] == ["query_id", "text"] and table[1] == ["q_0", 'a,"0"']
    for bad in (
        "select nothing from nowhere",
        "delete from query",
        "copy query to 'x.csv'",
        "select * from read_csv('/etc/passwd')",
        "select 1; select 2",
    ):
        run_factory("sql", bad, cwd=workspace, code=2)
    assert not (workspace / "x.csv").exists()


def test_columns_of_one_name_are_told_apart_in_json(workspace: Path) -> None:
    sql = "select 1 as a, 2 as a_1, 3 as a, 4 as a"
    done = run_factory("sql", sql, "--json", cwd=workspace)
    assert json.loads(done.stdout) == {"a": 1, "a_1": 2, "a_2": 3, "a_3": 4}
    for seconds in ("inf", "nan", "0", "1e300"):
        run_factory("sql", "select 1", "--timeout", seconds, cwd=workspace, code=2)


INTERRUPTIBLE = """
import runpy, signal, sys

# A shell's background job ignores it, and so would whatever runs in one.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
event, part, number = sys.argv.pop(1).split(":")

def stop(name, arguments):
    global event
    if name == event and part in str(arguments[:1]):
        event = ""
        signal.raise_signal(int(number))

sys.addaudithook(stop)
runpy.run_module("factory", run_name="__main__")
"""
"""Ctrl-C at an event of the interpreter, so that it comes at the same moment on any machine."""
ENDLESS = "select count(*) from range(100000000000) a(x), range(1000) b where a.x % 7 = 3"


@contextmanager
def interruptible(
    workspace: Path,
    event: str,
    *arguments: str,
    number: int = signal.SIGINT,
    goes_on: str = "the same command goes on",
) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", INTERRUPTIBLE, f"{event}:{number:d}", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=workspace, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        yield process
        _, said = process.communicate()
    wanted = f"stopped; nothing is lost: {goes_on}\n"
    assert (process.returncode, said) == (128 + number, wanted)


@pytest.mark.parametrize(
    "event",
    [
        *("import:typer", "import:rich.console", "import:factory.ledger", "import:duckdb"),
        *("open:0005_", "os.listdir:segments", "socket.__new__:"),
    ],
)
def test_ctrl_c_ends_with_130_wherever_it_comes(workspace: Path, event: str) -> None:
    """While modules are imported, the ledger opened, a query begun, the answer printed."""
    with interruptible(workspace, event, "sql", "select 1 as a"):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("event", ["import:rich.console", "socket.__new__:"])
def test_a_scheduler_and_a_closed_terminal_end_a_command_too(
    workspace: Path, event: str, number: int
) -> None:
    with interruptible(workspace, event, "sql", "select 1 as a", number=number):
        pass


@pytest.mark.parametrize("command", ["round", "teach"])
def test_a_round_that_is_stopped_goes_on_as_a_round(workspace: Path, command: str) -> None:
    with interruptible(
        workspace, "import:typer", command, goes_on="`factory round` continues where it was"
    ):
        pass


def test_what_was_to_be_ignored_stays_ignored(workspace: Path) -> None:
    """nohup, and Ctrl-C at a shell's background job, which SIGTERM ends all the same."""
    code = INTERRUPTIBLE.replace("signal.default_int_handler", "signal.SIG_IGN").replace(
        "event, part", "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nevent, part"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ends = {signal.SIGHUP: 0, signal.SIGINT: 0, signal.SIGTERM: 143}
    for number, end in ends.items():
        told = f"import:duckdb:{number:d}"
        done = subprocess.run(
            [sys.executable, "-c", code, told, "sql", "select 1 as a", "--json"],
            cwd=workspace, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == end, done.stderr
        assert done.stderr.count("\n") == (end != 0)


def test_the_first_process_of_a_container_hears_sigterm(workspace: Path) -> None:
    inner = [sys.executable, "-m", "factory", "sql", ENDLESS, "--timeout", "1000000"]
    new = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*new, "true"], capture_output=True).returncode:
        pytest.skip("no PID namespace may be made here: unshare --pid --fork --mount-proc true")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*new, *inner], cwd=workspace, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        (first,) = wait_for_children(process.pid)
        wait_for_work(process, first)
        os.kill(first, signal.SIGTERM)
        _, said = process.communicate()
    assert said.startswith("stopped; nothing is lost") and said.count("\n") == 1
    assert process.returncode == 143


def wait_for_children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    while not (found := [int(child) for child in path.read_text().split()]):
        time.sleep(0.05)
    return found


def wait_for_work(process: subprocess.Popen[str], pid: int) -> None:
    """Until its child computes: most is imported before, and the query takes days."""
    (child,) = wait_for_children(pid)
    stat = Path(f"/proc/{child}/stat")
    while int(stat.read_text().rpartition(")")[2].split()[11]) < 2 * os.sysconf("SC_CLK_TCK"):
        assert process.poll() is None
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_a_query_and_says_so(workspace: Path, number: int) -> None:
    """However long the machine takes to come that far: it has no deadline before the next year."""
    query = ("sql", ENDLESS, "--timeout", "1000000")
    with interruptible(workspace, ":", *query, number=number) as process:
        wait_for_work(process, process.pid)
        process.send_signal(number)


def test_ctrl_c_stops_what_nobody_reads(workspace: Path) -> None:
    sql = "select repeat('x', 100) from range(1000000)"
    with interruptible(workspace, ":", "sql", sql, "--csv") as process:
        assert process.stdout is not None
        process.stdout.readline()  # it prints now, and soon waits for us
        process.send_signal(signal.SIGINT)


SLOW = "select levenshtein(repeat('ab', 500000), repeat('ba', 500000))"
"""One call of one function, in which DuckDB looks for no interrupt."""


def test_one_long_function_ends_at_the_deadline(workspace: Path) -> None:
    done = run_factory("sql", SLOW, "--timeout", "0.5", cwd=workspace, code=2)
    assert "took longer than 0.5 s" in done.stderr and not done.stdout


def test_one_long_function_ends_at_ctrl_c(workspace: Path) -> None:
    with interruptible(workspace, ":", "sql", SLOW, "--timeout", "1000000") as process:
        (child,) = wait_for_children(process.pid)
        wait_for_work(process, process.pid)
        process.send_signal(signal.SIGINT)
    assert not Path(f"/proc/{child}").exists()


def run_apart(code: str) -> str:
    """What a script prints that goes on apart."""
    start = "import os, signal\nfrom factory.cli.apart import go_on_apart\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", start + code], env=environment, capture_output=True, text=True
    ).stdout


def test_ctrl_c_that_comes_as_the_child_ends_is_no_fault() -> None:
    """As where a terminal tells both: Python hears of it when the child was waited for."""
    code = (
        "def stop(*_): raise KeyboardInterrupt\n"
        "signal.signal(signal.SIGCHLD, stop)\n"
        "try:\n"
        "    go_on_apart(9.0)\n"
        "    os._exit(0)\n"
        "except KeyboardInterrupt: print('stopped')\n"
    )
    assert run_apart(code) == "stopped\n"


def test_a_query_goes_on_where_a_signal_was_to_be_ignored() -> None:
    """nohup, and a terminal that closes."""
    code = (
        "for number in (signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)\n"
        "go_on_apart(9.0)\n"
        "for number in (signal.SIGHUP, signal.SIGINT): os.kill(os.getpid(), number)\n"
        "print('goes on')\n"
    )
    assert run_apart(code) == "goes on\n"


def test_a_query_cannot_take_all_memory() -> None:
    code = (
        "from factory.domain.limits import QUERY_BYTES, THREAD_BYTES\n"
        "go_on_apart(9.0)\n"
        "try: bytearray(QUERY_BYTES + THREAD_BYTES * os.cpu_count() + 1)\n"
        "except MemoryError: print('bounded', bytearray(1 << 20)[0])\n"
    )
    assert run_apart(code) == "bounded 0\n"


def test_csv_on_a_terminal_shows_escapes_and_in_a_pipe_is_data(workspace: Path) -> None:
    query = (
        "sql",
        "select 'a' || chr(27) || '[31m,' || chr(155) || chr(10) || 'b' as \"c\x1b]0;\"",
    )
    text = "a\x1b[31m,\x9b\nb"
    piped = run_factory(*query, "--csv", cwd=workspace).stdout
    assert next(csv.DictReader(io.StringIO(piped))) == {"c\x1b]0;": text}
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen:
        done = subprocess.run(
            [sys.executable, "-m", "factory", *query, "--csv"],
            cwd=workspace, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=theirs,
        )  # fmt: skip
        shown = screen.read(4096).decode()
        os.close(theirs)
    assert done.returncode == 0 and shown == 'c\\x1b]0;\r\n"a\\x1b[31m,\\x9b\r\nb"\r\n'


def test_limits_are_told(workspace: Path) -> None:
    numbers = "select range as n from range(2500)"
    screen = run_factory("sql", numbers, cwd=workspace)
    assert len(screen.stdout.splitlines()) == 1001 and "--limit 0" in screen.stderr
    for option, head in (("--json", 0), ("--csv", 1)):
        done = run_factory("sql", numbers, option, cwd=workspace)
        assert len(done.stdout.splitlines()) == 2500 + head and not done.stderr
        done = run_factory("sql", numbers, option, "--limit", "3", cwd=workspace)
        assert len(done.stdout.splitlines()) == 3 + head and "first 3 rows" in done.stderr
    done = run_factory("sql", numbers, "--limit", "0", cwd=workspace)
    assert len(done.stdout.splitlines()) == 2501 and not done.stderr
    run_factory("sql", numbers, "--limit", "-1", cwd=workspace, code=2)


HOSTILE = "a :key: [red]b[/] \\ [/] :smile:"


def test_data_reach_programs_unchanged(workspace: Path) -> None:
    text = HOSTILE + " \x1b[31m \u202e é"
    append_sample(workspace, text=text)
    sql = "select text from query"
    done = run_factory("sql", sql, "--json", cwd=workspace)
    assert json.loads(done.stdout) == {"text": text} and done.stdout.isascii()
    done = run_factory("sql", sql, "--csv", cwd=workspace)
    assert list(csv.reader(io.StringIO(done.stdout))) == [["text"], [text]]
    assert HOSTILE in run_factory("sql", sql, cwd=workspace).stdout
    record = json.loads(run_factory("show", QUERY_ID, "--json", cwd=workspace).stdout)
    assert record["query"][0]["text"] == text
    shown = run_factory("show", QUERY_ID, cwd=workspace).stdout
    assert HOSTILE in shown and "\x1b" not in shown
    (workspace / "prompts" / "tools").mkdir()
    (workspace / "prompts" / "tools" / "generate.j2").write_text(text, encoding="utf-8")
    done = run_factory("diff", "prompts/tools/generate.j2", cwd=workspace)
    assert "+" + text in done.stdout


QUERY_ID = "q_0123456789ab"
TOOL_IDS = ("t_0123456789ab", "t_ba9876543210")
LONG_REASON = "object_nested_schema"


def append_sample(workspace: Path, text: str = "What are 20 and 35 dollars in euros? " * 4) -> None:
    """A rejected query with two tools, one of them with codes of two codebooks."""
    document = {
        "name": "fx_convert",
        "description": "Convert an amount between currencies at the rate of today. " * 3,
        "arguments": {"type": "dict", "properties": {}, "required": []},
    }
    key = {"round": 1, "judgement": 1, "query_id": QUERY_ID}
    fault = {
        "rule": f"call/{LONG_REASON}",
        "reason": LONG_REASON,
        "path": "$[0].arguments.amount.value",
        "message": '"20" is a string, not a number, and this sentence says so at length. ' * 2,
    }
    generation = {
        "round": 1,
        "query_id": QUERY_ID,
        "subject": "",
        "text": "<tool_call>{}</tool_call>",
        "finish_reason": "stop",
        "num_tokens": 5,
        "logprob": -0.5,
    }
    tools = [{"id": tool_id, "document": document} for tool_id in TOOL_IDS]
    code = {"tool_id": TOOL_IDS[0], "resolved_by": "nearest", "error": 0.1, "ood": False}
    Ledger(workspace / ".factory").append(
        {
            "round": [{"round": 1}],
            "draw": [{"round": 1, "position": 0, "query_id": QUERY_ID}],
            "query": [{"query_id": QUERY_ID, "text": text, "source": "x"}],
            "sample": [
                {
                    **key,
                    **fault,
                    "status": "rejected",
                    "stage": "calls",
                    "tools_json": json.dumps(tools),
                    "calls_json": '[{"name": "fx_convert", "arguments": {}}]',
                }
            ],
            "verdict": [
                {**key, **fault, "subject": subject, "severity": "reject"}
                for subject in ("sample:0", f"code:{TOOL_IDS[1]}")
            ],
            "vote": [
                {
                    "round": 1,
                    "query_id": QUERY_ID,
                    "num_samples": 2,
                    "winner": 0,
                    "votes": 2,
                    "margin": 1.0,
                    "entropy": 0.0,
                    "decided_by": "strict",
                    "reason": "",
                    "classes_json": "[0, 0]",
                }
            ],
            "generation": [
                {**generation, "stage": "tools", "sample_index": 0},
                {**generation, "stage": "calls", "sample_index": 0},
                {**generation, "stage": "calls", "sample_index": 1},
            ],
            "tool_code": [
                {**code, "codebook_version": 1, "code": "<a_1><b_2>", "round": 1},
                {**code, "codebook_version": 2, "code": "<a_3><b_4>", "round": 2},
            ],
        }
    )


def test_show_prints_each_tool_with_its_code(workspace: Path) -> None:
    append_sample(workspace)
    shown = run_factory("show", QUERY_ID, cwd=workspace).stdout
    lines = [line for line in shown.splitlines() if line.startswith("tool t_")]
    assert lines == [
        f"tool {TOOL_IDS[0]}  <a_3><b_4>  codebook 2",
        f"tool {TOOL_IDS[1]}  no code",
    ]
    record = json.loads(run_factory("show", QUERY_ID, "--json", cwd=workspace).stdout)
    assert [(row["tool_id"], row["code"]) for row in record["tool_code"]] == [
        (TOOL_IDS[0], "<a_3><b_4>")
    ]


def test_rejects_and_show_fit_80_columns_and_keep_ids_whole(workspace: Path) -> None:
    append_sample(workspace)
    narrow = {"COLUMNS": "80"}
    for command, whole in (
        (["rejects"], [LONG_REASON, QUERY_ID]),
        (["rejects", "--reason", LONG_REASON], [f"call/{LONG_REASON}", QUERY_ID]),
        (["show", QUERY_ID], [QUERY_ID, *TOOL_IDS, LONG_REASON]),
    ):
        done = run_factory(*command, cwd=workspace, environment=narrow)
        lines = done.stdout.splitlines()
        assert all(len(line) <= 80 and line == line.rstrip() for line in lines), done.stdout
        for name in whole:
            assert name in done.stdout, done.stdout
    ids = "select query_id, query_id as b, query_id as c, query_id as d, query_id as e, path, "
    wide = run_factory("sql", ids + "message from rejected", cwd=workspace, environment=narrow)
    assert wide.stdout.count(QUERY_ID) == 5


def test_a_reader_that_goes_away_is_no_bug(workspace: Path) -> None:
    for option in ("--json", "--csv", "--limit=0"):
        command = [sys.executable, "-m", "factory", "sql", "from range(20000)", option]
        process = subprocess.Popen(
            command,
            cwd=workspace,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        with process.stderr as errors:
            assert errors.read() == b""
        assert process.wait() == 141


def test_what_the_system_refuses_is_no_bug(tmp_path: Path) -> None:
    done = run_factory("init", "/proc/x", cwd=tmp_path, code=3)
    assert "/proc/x" in done.stderr and "remedy" in done.stderr
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = run_factory("init", str(tmp_path / "file" / "x"), cwd=tmp_path, code=3)
    assert "our bug" not in done.stderr


@pytest.mark.parametrize("number", DISK_FAULTS)
def test_disk_faults_are_the_environments(
    number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert print_unexpected(OSError(number, os.strerror(number), "/some/file")) == 3
    assert "/some/file" in capsys.readouterr().err
    assert print_unexpected(OSError(errno.EBADF, "bad")) == 4


def test_show_marks_hostile_text_harmless(workspace: Path) -> None:
    text = "evil \x1b[31mred\x1b[0m [bold]markup[/] \u202eflip"
    Ledger(workspace / ".factory").append(
        {
            "draw": [{"round": 1, "position": 0, "query_id": "q_evil"}],
            "query": [{"query_id": "q_evil", "text": text, "source": "x"}],
        }
    )
    done = run_factory("show", "q_e", cwd=workspace)
    assert "\x1b" not in done.stdout and "\u202e" not in done.stdout
    assert "[bold]markup[/]" in done.stdout
    run_factory("show", "q_other", cwd=workspace, code=2)


def test_unknown_recipe_key(workspace: Path) -> None:
    done = run_factory("round", "--dry-run", "--set", "train.epoch=2", cwd=workspace, code=2)
    assert "train.epoch" in done.stderr and "train.epochs" in done.stderr


def test_unknown_recipe_and_flag(workspace: Path) -> None:
    assert (
        "rounds/none.toml"
        in run_factory("round", "--dry-run", "--recipe", "none", cwd=workspace, code=2).stderr
    )
    run_factory("round", "--no-such-flag", cwd=workspace, code=2)


def test_missing_model_folder(workspace: Path) -> None:
    use_model(workspace, workspace / "nowhere")
    done = run_factory("round", "--n", "4", cwd=workspace, code=2)
    assert "nowhere" in done.stderr and "remedy" in done.stderr
    assert not list((workspace / ".factory").glob("segments/*"))


def test_dry_run_shows_origins_and_writes_nothing(workspace: Path, tmp_path: Path) -> None:
    use_model(workspace, tiny_model(tmp_path / "model"))
    done = run_factory("round", "--dry-run", "--n", "7", "--set", "calls.n=9", cwd=workspace)
    assert "7 (flag)" in done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("calls.n"))
    assert line.split() == ["calls.n", "9", "flag"]
    assert not (workspace / ".factory" / "ledger.duckdb").exists()


def test_values_of_the_engine_are_set_as_those_of_a_recipe(workspace: Path, tmp_path: Path) -> None:
    use_model(workspace, tiny_model(tmp_path / "model"))
    ray = ("--set", "engine.backend=ray", "--set", "engine.replicas=4", "--threads", "2")
    done = run_factory("round", "--dry-run", *ray, "--set", "calls.n=9", cwd=workspace)
    lines = done.stdout.splitlines()
    assert "engine     ray of auto, 2 threads" in lines
    alone = ("--set", "engine.replicas=4")
    done = run_factory("round", "--dry-run", *alone, cwd=workspace, code=2)
    assert 'need engine.backend = "ray"' in done.stderr
    far = ("--set", "engine.replica=4")
    done = run_factory("round", "--dry-run", *far, cwd=workspace, code=2)
    assert "did you mean engine.replicas?" in done.stderr


def test_broken_query_lines_are_named(workspace: Path, tmp_path: Path) -> None:
    use_model(workspace, tiny_model(tmp_path / "model"))
    file = workspace / "q.jsonl"
    file.write_text('{"query": "good"}\n{"query": \n{"nothing": 1}\n', encoding="utf-8")
    done = run_factory("round", "--dry-run", "--queries", "q.jsonl", cwd=workspace)
    assert "q.jsonl:2" in done.stderr and "q.jsonl:3" in done.stderr
    assert "from 1 in 1 files" in done.stdout


def test_empty_pool(workspace: Path, tmp_path: Path) -> None:
    use_model(workspace, tiny_model(tmp_path / "model"))
    file = workspace / "q.jsonl"
    file.write_text('{"query": "only one"}\n', encoding="utf-8")
    from factory.domain.canon import query_id

    Ledger(workspace / ".factory").append(
        {
            "draw": [{"round": 1, "position": 0, "query_id": query_id("Only  ONE")}],
            "stage": [{"round": 1, "stage": "gate", "status": "done"}],
        }
    )
    done = run_factory("round", "--queries", "q.jsonl", cwd=workspace, code=2)
    assert "pool is empty" in done.stderr and "--queries" in done.stderr


def test_second_round_in_the_same_workspace(workspace: Path) -> None:
    with WorkspaceLock(workspace / ".factory"):
        done = run_factory("round", "--n", "4", cwd=workspace, code=3)
    assert str(os.getpid()) in done.stderr


def test_busy_ledger_does_not_stop_reading_or_adding(workspace: Path, tmp_path: Path) -> None:
    ledger = Ledger(workspace / ".factory")
    ledger.append({"query": [{"query_id": "q_1", "text": "x"}]})
    assert ledger.fold()
    tools = tmp_path / "tools.jsonl"
    tools.write_text(
        '{"name": "f", "description": "Does this.", "parameters": {}}\n', encoding="utf-8"
    )
    reader = duckdb.connect(str(workspace / ".factory" / "ledger.duckdb"), read_only=True)
    try:
        run_factory("add-tools", str(tools), cwd=workspace)
        done = run_factory("sql", "select count(*) as n from tool", "--json", cwd=workspace)
        assert json.loads(done.stdout) == {"n": 1}
    finally:
        reader.close()


def test_add_tools_reports_bad_lines_and_keeps_the_rest(workspace: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools.jsonl"
    good = '{"name": "f", "description": "Does this.", "parameters": {"type": "object"}}\n'
    true = '"parameters": {"type": "object", "properties": {"x": 5}}'
    unusable = '{"name": "g", "description": "Does that.", ' + true + "}\n"
    nan = unusable.replace("5", '{"type": "number", "description": "n", "default": NaN}')
    text = good + '{"no": "name"}\n' + '{"name": "h"}\n' + unusable + nan
    tools.write_text(text, encoding="utf-8")
    done = run_factory("add-tools", str(tools), cwd=workspace, code=1)
    assert "2 tools added" in done.stdout and "3 bad" in done.stdout
    lines = done.stderr.splitlines()
    for number, cause in ((2, "no name"), (4, "tool_unusable"), (5, "")):
        assert any(f"tools.jsonl:{number}:" in line and cause in line for line in lines)
    assert "1 documents break rules" in done.stderr and "1 desc_missing" in done.stderr
    (workspace / "factory.toml").write_text(
        '[rules]\n"tool/desc_missing" = "off"\n"tool/desc_short" = "off"\n', encoding="utf-8"
    )
    done = run_factory("add-tools", str(tools), cwd=workspace, code=1)
    assert "0 tools added, 2 known already, 3 bad" in done.stdout
    assert "break rules" not in done.stderr


def test_add_tools_says_what_it_changed_and_which_names_are_shared(
    workspace: Path, tmp_path: Path
) -> None:
    get = {"operationId": "f", "description": "Does this and that."}
    paths = {"/x": {"get": get, "put": {"deprecated": True}}, "/y": {"get": {**get, "x": 1}}}
    spec = {"swagger": "2.0", "info": {"title": "Shop"}, "paths": paths}
    (tmp_path / "api.json").write_text(json.dumps(spec), encoding="utf-8")
    done = run_factory("add-tools", str(tmp_path / "api.json"), cwd=workspace)
    assert "api.json: 2 tools added, 0 known already, 0 bad" in done.stdout
    assert "2 documents were not taken as they were written" in done.stderr
    file = tmp_path / "more.jsonl"
    file.write_text('{"name": "f", "description": "Another one."}\n', encoding="utf-8")
    done = run_factory("add-tools", str(file), cwd=workspace)
    assert "1 names are borne by several tools: f." in done.stderr
    options = ("--report", "--deprecated")
    done = run_factory("add-tools", str(tmp_path / "api.json"), *options, cwd=workspace)
    assert "1 tools added, 2 known already" in done.stdout
    assert "api.json:1 GET /y  get_y  named get_y after its method and path" in done.stdout


def test_resume_without_an_open_round(workspace: Path, tmp_path: Path) -> None:
    use_model(workspace, tiny_model(tmp_path / "model"))
    done = run_factory("round", "--resume", cwd=workspace, code=2)
    assert "no round is open" in done.stderr


def test_ledger_that_is_no_ledger(workspace: Path) -> None:
    file = workspace / ".factory" / "ledger.duckdb"
    file.parent.mkdir()
    file.write_bytes(b"not a database" * 1000)
    assert "damaged" in run_factory("status", cwd=workspace, code=2).stderr


def test_rules_run_their_cases(workspace: Path) -> None:
    assert "0 failed cases" in run_factory("rules", "--test", cwd=workspace).stdout
    assert "call/wrong_type" in run_factory("rules", cwd=workspace).stdout


def test_factory_boy_is_refused(workspace: Path, tmp_path: Path) -> None:
    info = tmp_path / "site" / "factory_boy-3.3.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: factory_boy\nVersion: 3.3.3\n", encoding="utf-8")
    path = os.pathsep.join((str(ROOT), str(tmp_path / "site")))
    done = run_factory("status", cwd=workspace, code=3, environment={"PYTHONPATH": path})
    assert "pip uninstall factory_boy" in done.stderr

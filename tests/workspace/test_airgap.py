"""What a command tries to reach where nothing can be reached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from workspaces import ROOT, has_namespaces, make_workspace, run_factory

from factory.workspace import airgap

BEGIN = """
import _thread, os, socket, sys, time
from factory.workspace import airgap
if airgap.mode() == "namespace":
    airgap._unshare()
os.environ[airgap.START] = str(airgap._count())
airgap._guard()
"""
TRY = """
listener = socket.create_server(("127.0.0.1", 0))
socket.create_connection(listener.getsockname()).close()
socket.getaddrinfo("localhost", 80)
socket.gethostbyname("192.0.2.1")
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).connect((0, 0))
print(airgap.attempts())
for address in (("192.0.2.1", 80), ("2001:db8::1", 80)):
    try:
        socket.create_connection(address, 1)
    except OSError as error:
        print(type(error).__name__)
print(airgap.attempts(), *airgap.attempts().tried, sep="\\n")
"""
TRY_ALL = """
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
far = ("192.0.2.1", 80)
for ask in (
    lambda: udp.connect(far),
    lambda: udp.sendto(b"", far),
    lambda: udp.sendmsg([b""], [], 0, far),
    lambda: socket.getaddrinfo("tools.invalid", 80),
    lambda: socket.gethostbyname("tools.invalid"),
    lambda: socket.gethostbyname_ex("tools.invalid"),
    lambda: socket.gethostbyaddr("192.0.2.1"),
    lambda: socket.getnameinfo(far, 0),
):
    try:
        ask()
        sys.exit("it was let through")
    except PermissionError:
        pass
_thread.start_new_thread(udp.connect, (far,))
while len(airgap.attempts().tried) < 9:
    time.sleep(0.01)
print(*airgap.attempts().tried, sep="\\n")
"""
ASK_NEAR = """
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"who", ("127.0.0.53", 53))
print(airgap.attempts())
print(os.readlink("/proc/self/ns/user"))
"""


def try_in(mode: str, folder: Path, program: str = TRY) -> list[str]:
    file = folder / "tried"
    file.write_bytes(b"")
    marks = {"FACTORY_AIRGAP": mode, "FACTORY_AIRGAP_TRIED": str(file)}
    env = {**os.environ, "PYTHONPATH": str(ROOT), **marks}
    command = [sys.executable, "-c", BEGIN + program]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.skipif(not has_namespaces(), reason="no network namespace can be made here")
def test_the_kernel_counts_what_finds_no_route(tmp_path: Path) -> None:
    told = try_in("namespace", tmp_path)
    assert told[0] == "no connection was tried: the kernel counts 0 of a namespace without routes"
    assert told[3] == (
        "2 connections or datagrams were tried and went nowhere, "
        "2 noted by the guard of Python processes"
    )
    assert {line.split(" by ")[0] for line in told[4:]} == {
        "connect 192.0.2.1:80",
        "connect 2001:db8::1:80",
    }


def alone(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", airgap.__name__, "alone", sys.executable, "-c", program]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.mark.skipif(not has_namespaces(), reason="no network namespace can be made here")
def test_any_command_runs_alone_and_ends_with_what_was_counted() -> None:
    quiet = alone("import sys; sys.exit(3)")
    assert quiet.returncode == 3 and quiet.stdout.startswith("no connection was tried")
    loud = alone("import socket; socket.socket().connect_ex(('192.0.2.1', 80))")
    assert loud.returncode == 1 and loud.stdout.startswith("1 connections or datagrams were tried")


def test_a_command_runs_as_it_is_where_no_namespace_can_be_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise PermissionError("unshare")

    monkeypatch.setattr(airgap, "_unshare", refuse)
    assert airgap._alone([sys.executable, "-c", "raise SystemExit(7)"]) == 7
    assert "nothing was counted" in capsys.readouterr().out


def test_the_guard_refuses_and_names_where_there_is_no_namespace(tmp_path: Path) -> None:
    told = try_in("guard", tmp_path)
    assert told[0].startswith("0 refused by the guard of Python processes; no network namespace")
    assert told[1:3] == ["PermissionError", "PermissionError"]
    assert told[3].startswith("2 refused") and "192.0.2.1:80 by " in told[4]


@pytest.mark.skipif(not has_namespaces(), reason="no network namespace can be made here")
def test_a_name_asked_of_this_machine_is_counted_and_root_stays_root(tmp_path: Path) -> None:
    counted, user = try_in("namespace", tmp_path, ASK_NEAR)
    assert counted.startswith("1 connections or datagrams were tried and went nowhere, 0 noted")
    assert os.geteuid() != 0 or user == os.readlink("/proc/self/ns/user")


def test_the_guard_knows_each_way_out_and_the_line_that_takes_it(tmp_path: Path) -> None:
    told = try_in("guard", tmp_path, TRY_ALL)
    lines = BEGIN.count("\n") + 5
    whats = (
        *("connect 192.0.2.1:80", "sendto 192.0.2.1:80", "sendmsg 192.0.2.1:80"),
        *("getaddrinfo tools.invalid:80", *["gethostbyname tools.invalid"] * 2),
        *("gethostbyaddr 192.0.2.1", "getnameinfo 192.0.2.1:80"),
    )
    assert told == [
        *(f"{what} by -c, <string>:{line}" for line, what in enumerate(whats, lines)),
        "connect 192.0.2.1:80 by -c, no line of Python",
    ]


def test_a_kernel_that_does_not_tell_counts_nothing(tmp_path: Path) -> None:
    assert airgap._count(tmp_path) is None
    (tmp_path / "snmp").write_text("Ip: OutNoRoutes\nIp: 3\nUdp: NoPorts InErrors\nUdp: 4 5\n")
    assert airgap._count(tmp_path) == 7
    told = str(airgap.Attempts(mode="namespace", counted=None, tried=()))
    assert told.startswith("0 noted") and "the kernel does not tell" in told


def test_doctor_looks_at_the_network_of_its_own_checks(tmp_path: Path) -> None:
    """Also where nothing can be written beside the ledger; and it leaves no file behind."""
    workspace, temporary = make_workspace(tmp_path / "ws").root, tmp_path / "tmp"
    temporary.mkdir()
    logs = workspace / ".factory" / "logs"
    logs.parent.mkdir(exist_ok=True)
    logs.touch()
    environment = {"TMPDIR": str(temporary)}
    done = run_factory("doctor", "--airgap", "--json", cwd=workspace, environment=environment)
    line = next(line for line in done.stdout.splitlines() if '"network"' in line)
    if has_namespaces():
        assert '"ok"' in line and "no connection was tried" in line
    else:
        assert '"warn"' in line and "0 refused by the guard" in line
    assert not list(temporary.glob("factory-*")) and not logs.read_bytes()

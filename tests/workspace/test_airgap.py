"""What a command tries to reach where nothing can be reached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from workspaces import ROOT, has_namespaces, make_workspace, run_factory

TRY = """
import os, socket, sys
from factory.workspace import airgap
if airgap.mode() == "namespace":
    airgap._unshare()
os.environ[airgap.START] = str(airgap._count())
airgap._guard()
listener = socket.create_server(("127.0.0.1", 0))
socket.create_connection(listener.getsockname()).close()
socket.getaddrinfo("localhost", 80)
print(airgap.attempts())
for address in (("192.0.2.1", 80), ("2001:db8::1", 80)):
    try:
        socket.create_connection(address, 1)
    except OSError as error:
        print(type(error).__name__)
print(airgap.attempts(), *airgap.attempts().tried, sep="\\n")
"""


def try_in(mode: str, folder: Path) -> list[str]:
    file = folder / "tried"
    file.write_bytes(b"")
    marks = {"FACTORY_AIRGAP": mode, "FACTORY_AIRGAP_TRIED": str(file)}
    env = {**os.environ, "PYTHONPATH": str(ROOT), **marks}
    command = [sys.executable, "-c", TRY]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.skipif(not has_namespaces(), reason="no network namespace can be made here")
def test_the_kernel_counts_what_finds_no_route(tmp_path: Path) -> None:
    told = try_in("namespace", tmp_path)
    assert told[0] == "no connection was tried: the kernel counts 0 of a namespace without routes"
    assert told[3] == "2 connections or datagrams were tried and went nowhere"
    assert {line.split(" by ")[0] for line in told[4:]} == {
        "connect 192.0.2.1:80",
        "connect 2001:db8::1:80",
    }


def test_the_guard_refuses_and_names_where_there_is_no_namespace(tmp_path: Path) -> None:
    told = try_in("guard", tmp_path)
    assert told[0].startswith("0 refused by the guard of Python processes; no network namespace")
    assert told[1:3] == ["PermissionError", "PermissionError"]
    assert told[3].startswith("2 refused") and "192.0.2.1:80 by " in told[4]


def test_doctor_looks_at_the_network_of_its_own_checks(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws").root
    done = run_factory("doctor", "--airgap", "--json", cwd=workspace)
    line = next(line for line in done.stdout.splitlines() if '"network"' in line)
    assert ('"ok"' in line and "no connection was tried" in line) or '"warn"' in line

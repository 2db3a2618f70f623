"""Where no interface is up, vLLM's child would end in gloo's traceback: the command says why."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from workspaces import ROOT

from factory.engines.opening import check_loopback

CHECK = "from factory.engines.opening import check_loopback; check_loopback()"


def test_a_loopback_that_is_down_is_named() -> None:
    check_loopback()
    for unshare in (("unshare", "--net"), ("unshare", "--user", "--map-root-user", "--net")):
        if subprocess.run([*unshare, "true"], capture_output=True).returncode == 0:
            break
    else:
        pytest.skip("no network namespace can be made here")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*unshare, sys.executable, "-c", CHECK], env=env, capture_output=True, text=True
    )
    assert "EnvironmentError_: vLLM and Ray need the loopback interface" in done.stderr

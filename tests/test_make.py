"""The Makefile calls `factory` with commands, options and recipes that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from workspaces import ROOT

from factory.cli.commands import COMMANDS, load


def test_make_real_calls_what_exists(tmp_path: Path) -> None:
    command = ["make", "-n", "real", f"VENV={tmp_path}", f"REAL={tmp_path / 'real'}"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    calls = re.findall(r"/factory ([a-z][^|&\n]*)", done.stdout)
    names = []
    for words in map(shlex.split, calls):
        name = next(each for each in (" ".join(words[:2]), words[0]) if each in COMMANDS)
        known = {option for each in load(name, COMMANDS[name]).params for option in each.opts}
        assert {word for word in words if word.startswith("--")} <= known, words
        if "--recipe" in words:
            assert (ROOT / "rounds" / f"{words[words.index('--recipe') + 1]}.toml").exists()
        names.append(name)
    assert names == ["init", "model import", "home", "teach", "round"]


def test_make_bench_installs_ray_where_it_is_measured(tmp_path: Path) -> None:
    def planned(*more: str) -> str:
        command = ["make", "-n", "bench", f"VENV={tmp_path}", *more]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    assert "requirements/ray.lock" in planned() and "requirements/ray.lock" in planned("ONLY=ray")
    assert "requirements/ray.lock" not in planned("ONLY=ledger")

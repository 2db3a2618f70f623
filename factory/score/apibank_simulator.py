"""The child that runs API-Bank's own simulator, in its own folder and process.

What it imports is the benchmark's code, brought by the user. Each pair of calls meets freshly
initialised databases, so no call sees what another one changed.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from factory.domain.failures import MissingError
from factory.engines.child import Channel, run_child


def main(channel: Channel, arguments: list[str]) -> None:
    """Answer {name, given, expected} with {correct, message} until the channel closes."""
    (folder,) = arguments
    os.chdir(folder)
    sys.path.insert(0, folder)
    try:
        manager_class = importlib.import_module("tool_manager").ToolManager
        manager_class()
    except Exception as error:
        raise MissingError(
            f"API-Bank's simulator cannot be started: {type(error).__name__} {error}",
            where=folder,
            remedy="install what its requirements.txt names, or leave the simulator out",
        ) from error
    while (message := channel.receive()) is not None:
        channel.send(judge(manager_class, message))


def judge(manager_class: Any, message: dict[str, Any]) -> dict[str, Any]:
    """Execute both calls, and compare them as the API itself does."""
    name = message["name"]
    try:
        expected = manager_class().api_call(name, **message["expected"])
        manager = manager_class()
        given = manager.api_call(name, **message["given"])
        tool = manager.init_tool(name)
        correct = bool(tool.check_api_call_correctness(given, expected))
    except Exception as error:  # whatever the benchmark's code raises is a wrong call
        return {"correct": False, "message": f"{type(error).__name__}: {error}"[:500]}
    return {"correct": correct, "message": "" if correct else f"it returned {given}"[:500]}


if __name__ == "__main__":
    run_child(main)

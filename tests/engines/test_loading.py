"""What a model folder that we wrote is to other programs and other users."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from conftest_models import tiny_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from factory.domain.failures import ModelError
from factory.engines.loading import load_model, stored_dtype
from factory.engines.sharing import open_to_others


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOMEM, OSError), (errno.EIO, ModelError)])
def test_a_lack_of_memory_is_not_told_as_a_broken_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises((OSError, ModelError)) as caught:
        load_model(tmp_path)
    assert type(caught.value) is kind


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_weights_are_as_readable_as_the_umask_lets_files_be(
    tmp_path: Path, mask: int, mode: int
) -> None:
    (tmp_path / "codes").mkdir(mode=0o700)
    for name in ("model.safetensors", "codes/gist.safetensors"):
        save_file({"x": torch.zeros(2)}, tmp_path / name)
        (tmp_path / name).chmod(0o600)
    before = os.umask(mask)
    try:
        open_to_others(tmp_path)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {
        "model.safetensors": mode,
        "gist.safetensors": mode,
        "codes": 0o777 & ~mask,
    }


@pytest.mark.parametrize(
    ("parents", "ours"),
    [
        ("PreTrainedTokenizerFast", "PreTrainedTokenizerFast"),
        ("TokenizersBackend", "PreTrainedTokenizerFast"),
        (None, "PreTrainedTokenizerFast"),
        ("Qwen2Tokenizer", "Qwen2Tokenizer"),
    ],
)
def test_a_tokenizer_keeps_its_parents_class(
    tmp_path: Path, parents: str | None, ours: str
) -> None:
    parent, child = tiny_model(tmp_path / "parent"), tmp_path / "child"
    path = parent / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": parents}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    tokenizer = AutoTokenizer.from_pretrained(parent)
    tokenizer.add_tokens(["<a_1>"], special_tokens=True)
    AutoModelForCausalLM.from_pretrained(parent).save_pretrained(child)
    tokenizer.save_pretrained(child)
    open_to_others(child, parent)
    written = json.loads((child / path.name).read_text())
    assert written["tokenizer_class"] == ours
    assert not {"local_files_only", "is_local"} & written.keys() - config.keys()
    assert not isinstance(written.get("extra_special_tokens"), list)
    names = {"PreTrainedTokenizerFast": ["input_ids", "attention_mask"]}.get(ours)
    assert written.get("model_input_names") == names
    again = AutoTokenizer.from_pretrained(child)
    text = "Book <a_1> a table, “please”"
    assert again.encode(text) == tokenizer.encode(text)
    assert again.special_tokens_map == tokenizer.special_tokens_map


def test_the_type_of_weights_is_the_files_where_no_config_says_it(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    path = folder / "config.json"
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
        assert stored_dtype(folder) == dtype
        config = json.loads(path.read_text())
        for key in ("dtype", "torch_dtype"):
            config.pop(key, None)
        path.write_text(json.dumps(config))
        assert stored_dtype(folder) == dtype

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
from workspaces import ROOT

from factory.domain.failures import ModelError
from factory.workspace.models import check_model_folder
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
    "config that is none": (
        lambda f: (f / "config.json").write_text("<!doctype html>"),
        "config.json is no JSON object",
        "fetch",
    ),
}


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

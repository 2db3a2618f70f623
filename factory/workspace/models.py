"""A model folder: whether it is whole, and the fingerprint of its weights."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from factory.domain.failures import ModelError

INSTALL = {
    "vllm": "pip install 'tool-factory[cpu]' (no GPU) or 'tool-factory[gpu]', "
    "or sample with the transformers backend",
    "transformers": "pip install 'tool-factory[train]'",
}


def fingerprint(folder: Path) -> str:
    """`sha256:…` over the names and bytes of the weight files in `folder`, in name order."""
    total = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        total.update(path.name.encode() + b"\0")
        with path.open("rb") as weights:
            total.update(hashlib.file_digest(weights, "sha256").digest())
    return f"sha256:{total.hexdigest()}"


def check_model_folder(path: Path) -> None:
    """Raise ModelError unless `path` has weights, config, tokenizer and chat template."""
    remedy = "give the folder of a model in Hugging Face format (as save_pretrained writes it)"
    if not path.is_dir():
        raise ModelError("The model folder does not exist", where=str(path), remedy=remedy)
    for what, patterns in {
        "weights": ("*.safetensors", "*.bin"),
        "config.json": ("config.json",),
        "tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json"),
    }.items():
        if not any(next(path.glob(pattern), None) for pattern in patterns):
            raise ModelError(f"The model folder has no {what}", where=str(path), remedy=remedy)
    if not (path / "chat_template.jinja").exists() and not _has_inline_template(path):
        raise ModelError(
            "The model's tokenizer has no chat template",
            where=str(path),
            remedy="use an instruction-tuned model, or add its chat_template.jinja to the folder",
        )


def _has_inline_template(path: Path) -> bool:
    config = path / "tokenizer_config.json"
    folder = path / "additional_chat_templates"
    return folder.is_dir() or (config.exists() and '"chat_template"' in config.read_text("utf-8"))


def is_installed(package: str) -> bool:
    """Whether `package` could be imported, without importing it."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None

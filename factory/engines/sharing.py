"""A model folder that was just written, for other programs and other users."""

from __future__ import annotations

import json
import os
from pathlib import Path


def open_to_others(folder: Path, parent: Path | None = None) -> None:
    """Let a model folder that was just written be read by other programs and other users.

    Weights come from safetensors with mode 0600: files get the mode that the user's umask gives.
    The tokenizer has the class that its `parent` has, or a name that every transformers knows.
    """
    path = folder / "tokenizer_config.json"
    if path.exists():
        config = json.loads(path.read_text("utf-8"))
        source = parent and parent / path.name
        before = json.loads(source.read_text("utf-8")) if source and source.exists() else {}
        for key in {"local_files_only", "is_local"} - before.keys():
            config.pop(key, None)
        config["tokenizer_class"] = before.get("tokenizer_class", config.get("tokenizer_class"))
        if config["tokenizer_class"] in (None, "TokenizersBackend"):
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
        if config["tokenizer_class"] == "PreTrainedTokenizerFast":
            # transformers 4 else adds token_type_ids, which generate() refuses.
            names = before.get("model_input_names", ["input_ids", "attention_mask"])
            config.setdefault("model_input_names", names)
        if isinstance(config.get("extra_special_tokens"), list):
            # The name that transformers 4 has for a list, and 5 reads as well.
            config["additional_special_tokens"] = config.pop("extra_special_tokens")
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    os.umask(mask := os.umask(0o077))
    for file in folder.rglob("*"):
        file.chmod((0o777 if file.is_dir() else 0o666) & ~mask)

"""Load a model folder's weights, and make what was trained savable and servable."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from factory.domain.exhausted import is_out_of_memory
from factory.domain.failures import ModelError
from factory.workspace.settings import EngineSection


def load_model(folder: Path, dtype: str = "auto") -> PreTrainedModel:
    """The model in evaluation mode, on the GPU if torch sees one; `dtype` is a name of torch, or
    auto: the one that the weights are stored in.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"transformers cannot load this model: {error}",
            where=str(folder),
            remedy="check the folder's config.json and weights; save_pretrained writes both",
        ) from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def load_served(folder: Path, settings: EngineSection) -> PreTrainedModel:
    """The model as the settings of an engine have it: there, `auto` is what the device is fast in,
    bfloat16 on a GPU and float32 on a CPU.
    """
    torch.set_num_threads(settings.threads)
    fast = "bfloat16" if torch.cuda.is_available() else "float32"
    return load_model(folder, fast if settings.dtype == "auto" else settings.dtype)


def served_length(config: PreTrainedConfig, settings: EngineSection) -> int:
    """Prompt and answer together, in tokens, as the settings and the model allow."""
    own_limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(settings.max_model_len, own_limit or settings.max_model_len)


def make_savable(model: PreTrainedModel, folder: Path) -> None:
    """Have the generation config ask for the sampling that its values are of, where it does not.

    transformers loads a model whose config has a temperature but no `do_sample`, and refuses to
    save it. Raises ModelError for a config that it refuses for another reason.
    """
    config = model.generation_config
    try:
        config.validate(strict=True)
    except ValueError:
        config.do_sample = True
        try:
            config.validate(strict=True)
        except ValueError as error:
            raise ModelError(
                f"transformers would not save this model's generation settings: {error}",
                where=str(folder / "generation_config.json"),
                remedy="take the values that it names out of the file",
            ) from error


def stored_dtype(folder: Path) -> torch.dtype:
    """The type of a folder's weights: as its config says, else as the first floats have it."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.dtype is not None:
        return config.dtype
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no mapping
                if (dtype := weights.get_slice(name).get_dtype()) in _FLOATS:
                    return _FLOATS[dtype]
    return torch.float32


_FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


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
        if isinstance(config.get("extra_special_tokens"), list):
            # The name that transformers 4 has for a list, and 5 reads as well.
            config["additional_special_tokens"] = config.pop("extra_special_tokens")
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    os.umask(mask := os.umask(0o077))
    for file in folder.rglob("*"):
        file.chmod((0o777 if file.is_dir() else 0o666) & ~mask)


def copy_processors(parent: Path, folder: Path) -> None:
    """Copy how a multimodal model reads what is no text, which other servers want to know."""
    for path in parent.glob("*processor_config.json"):
        shutil.copyfile(path, folder / path.name)

"""Load a model folder's weights, and make what was trained savable and servable."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from factory.domain.exhausted import is_out_of_memory
from factory.domain.failures import ModelError
from factory.engines.generation import mend_generation
from factory.workspace.settings import EngineSection


def load_model(folder: Path, dtype: str = "auto") -> PreTrainedModel:
    """The model in evaluation mode, on the GPU if torch sees one; `dtype` is a name of torch, or
    auto: the one that the weights are stored in.
    """
    try:
        model = load_whole(folder, dtype)
    except (ValueError, OSError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"transformers cannot load this model: {error}",
            where=str(folder),
            remedy="check the folder's config.json and weights; save_pretrained writes both",
        ) from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def load_whole(folder: Path, dtype: str | torch.dtype) -> PreTrainedModel:
    """The model, with every weight from its files: transformers makes up what they lack.

    Raises ModelError where they lack one, else what transformers raises.
    """
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, output_loading_info=True
    )
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            f"the folder lacks {len(missing)} of the model's weights, such as {missing[0]}: "
            "they would be random",
            where=str(folder),
            remedy="take a folder that holds the whole model; its config.json tells of more",
        )
    loaded: PreTrainedModel = model
    return loaded


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
    """Mend the model's generation settings (mend_generation), or raise ModelError."""
    mend_generation(model.generation_config, folder)


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


def copy_processors(parent: Path, folder: Path) -> None:
    """Copy how a multimodal model reads what is no text, which other servers want to know."""
    for path in parent.glob("*processor_config.json"):
        shutil.copyfile(path, folder / path.name)

"""Load a model folder's weights, and make what was trained savable and servable."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from factory.domain.failures import ModelError
from factory.workspace.settings import EngineSection


def load_model(folder: Path, dtype: str = "auto") -> PreTrainedModel:
    """The model in evaluation mode, on the GPU if torch sees one; `dtype` is a name of torch, or
    auto: the one that the weights are stored in.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
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


def copy_processors(parent: Path, folder: Path) -> None:
    """Copy how a multimodal model reads what is no text, which other servers want to know."""
    for path in parent.glob("*processor_config.json"):
        shutil.copyfile(path, folder / path.name)

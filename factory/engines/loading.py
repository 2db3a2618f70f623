"""Load a model folder's weights, and make what was trained savable and servable."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from factory.domain.failures import ModelError
from factory.workspace.settings import EngineSection


def load_model(folder: Path, settings: EngineSection) -> tuple[str, Any]:
    """Device name and model in evaluation mode."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(settings.threads)
    use_gpu = torch.cuda.is_available()
    default = "bfloat16" if use_gpu else "float32"
    dtype = getattr(torch, default if settings.dtype == "auto" else settings.dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(
            f"transformers cannot load this model: {error}",
            where=str(folder),
            remedy="check the folder's config.json and weights; save_pretrained writes both",
        ) from error
    device = "cuda" if use_gpu else "cpu"
    return device, model.to(device).eval()


def make_savable(model: Any, folder: Path) -> None:
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

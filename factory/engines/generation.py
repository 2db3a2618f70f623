"""The generation settings of a model folder, such that they can be saved and generated with."""

from __future__ import annotations

from pathlib import Path

from transformers import GenerationConfig

from factory.domain.failures import ModelError

OF_SAMPLING = "temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff".split()


def mend_generation(config: GenerationConfig, folder: Path) -> None:
    """Make settings savable that transformers loads and does not save, without another meaning.

    Values of sampling ask for sampling where `do_sample` is not said. Where it is said to be false,
    or the temperature is 0, they are of no effect and go. Raises ModelError for what else
    transformers refuses.
    """
    if config.pad_token_id is not None and config.pad_token_id < 0:
        config.pad_token_id = None
    heat = config.temperature
    if config.do_sample is False or (heat is not None and heat <= 0):
        config.do_sample = None if config.do_sample is None else False
        for name in OF_SAMPLING:
            setattr(config, name, None)
    try:
        config.validate(strict=True)
    except ValueError:
        config.do_sample = True if config.do_sample is None else config.do_sample
        try:
            config.validate(strict=True)
        except ValueError as error:
            raise ModelError(
                f"transformers would not save this model's generation settings: {error}",
                where=str(folder / "generation_config.json"),
                remedy="take the values that it names out of the file",
            ) from error

"""Where the training libraries do not fit each other, mended once when the child starts."""

from __future__ import annotations

from peft.utils.other import TrainableTokensWrapper


def mend_libraries() -> None:
    """Let TRL's fused head train code tokens' rows by PEFT.

    The head reads `lm_head.bias` (trl 1.16, trainer/utils.py), which PEFT's wrapper of trained
    rows does not pass on (peft 0.21): it looks for the name in the rows' adapter. A PEFT whose
    wrapper has the name is left alone.
    """
    if not hasattr(TrainableTokensWrapper, "bias"):
        TrainableTokensWrapper.bias = property(
            lambda wrapper: getattr(wrapper.token_adapter.base_layer, "bias", None)
        )

"""Perplexity in windows: equal to a direct computation, no token counted twice."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest
from conftest_models import tiny_model
from hypothesis import given
from hypothesis import strategies as st

from factory.codes.language import windows
from factory.domain.failures import InputError, ModelError
from factory.engines.perplexity import measure_perplexity
from factory.engines.perplexity_child import compute_perplexity

TEXT = "What is the weather in Oslo tomorrow? Book a table for 4 people on Friday.\n" * 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), max_positions=64)


def log_likelihoods(folder: Path, text: str, window: int, stride: int) -> list[float]:
    """Nats of each counted token, one forward pass and one softmax a token."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
    found = []
    for place in range(1, len(ids)):
        # The first window that holds the token: begin is the least multiple of the stride.
        begin = max(0, math.ceil((place + 1 - window) / stride)) * stride
        if begin < place:
            with torch.inference_mode():
                logits_V = model(torch.tensor([ids[begin:place]])).logits[0, -1]
            found.append(float(logits_V.log_softmax(-1)[ids[place]]))
    return found


@pytest.mark.parametrize(("window", "stride"), [(64, 64), (64, 16), (24, 24), (24, 7), (24, 1)])
def test_equals_one_pass_a_token(model: Path, window: int, stride: int) -> None:
    text = TEXT[:200]
    (found,) = compute_perplexity(model, text, window=window, strides=[stride])
    direct = log_likelihoods(model, text, window, stride)
    assert found.num_tokens == len(direct)
    assert found.value == pytest.approx(math.exp(-sum(direct) / len(direct)), rel=1e-4)
    bits = -sum(direct) / math.log(2) / len(text)
    assert found.bits_per_character == pytest.approx(bits, rel=1e-4)


@given(st.integers(2, 400), st.integers(1, 60), st.integers(1, 60))
def test_every_token_is_counted_at_most_once(tokens: int, window: int, stride: int) -> None:
    if stride > window:
        with pytest.raises(ValueError, match="stride"):
            list(windows(tokens, window, stride))
        return
    found = list(windows(tokens, window, stride))
    counted = [place for _, end, first in found for place in range(first, end)]
    assert counted == sorted(set(counted))
    assert all(begin < first < end <= begin + window for begin, end, first in found)
    if stride < window:
        assert counted == list(range(1, tokens))
        assert all(first - begin >= window - stride for begin, _, first in found[1:])
    else:
        assert counted == [place for place in range(1, tokens) if place % stride]


def test_overlapping_windows_see_more_and_both_are_reported(model: Path) -> None:
    found = compute_perplexity(model, TEXT)
    assert [(each.window, each.stride) for each in found] == [(64, 64)]
    found = compute_perplexity(model, TEXT, strides=(2048, 16))
    assert [each.stride for each in found] == [64, 16]
    assert found[0].num_tokens < found[1].num_tokens


def test_the_child_measures_the_same(model: Path, tmp_path: Path) -> None:
    inside = compute_perplexity(model, TEXT, strides=[32])
    log = tmp_path / "perplexity.log"
    outside = asyncio.run(measure_perplexity(model, TEXT, threads=1, log=log, strides=[32]))
    assert outside[0].num_tokens == inside[0].num_tokens
    assert outside[0].value == pytest.approx(inside[0].value, rel=1e-5)


def test_too_short_a_text_and_no_model_are_said(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs two"):
        compute_perplexity(model, "a")
    with pytest.raises(ModelError):
        compute_perplexity(tmp_path, "a b")

"""Words are spelt of a tokenizer's tokens, whatever kind it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factory.domain.failures import ModelError
from factory.workspace.folder import shipped_root
from factory.workspace.models import word_pieces

TOKENS = ["Ġmine", "mine", "Mi", "▁quarry", "##zorb", "flim</w>", "a", "12", "<|end|>", "Ġ", "é!"]


@pytest.mark.parametrize(
    "vocabulary",
    [{token: i for i, token in enumerate(TOKENS)}, [[token, -1.5] for token in TOKENS]],
)
def test_marks_of_all_kinds_are_taken_off(tmp_path: Path, vocabulary: object) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    assert word_pieces(tmp_path) == ("mine", "mi", "quarry", "zorb", "flim")


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"model": null}', '{"model": {"vocab": [[], 5]}}']
)
def test_a_file_of_another_form_has_none(tmp_path: Path, content: str) -> None:
    assert word_pieces(tmp_path) == ()
    (tmp_path / "tokenizer.json").write_text(content)
    assert word_pieces(tmp_path) == ()


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="JSON"):
        word_pieces(tmp_path)


def test_the_embedded_model_has_some() -> None:
    pieces = word_pieces(shipped_root() / "rounds" / "seed")
    assert len(pieces) > 1000
    assert len(set(pieces)) == len(pieces)

"""First rows of new code tokens leave a model's language whole, whatever coder made them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from conftest_models import tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from factory.codes.codebook import Codebook
from factory.codes.growing import fit_codebook
from factory.codes.install import install
from factory.codes.language import read_language
from factory.codes.rows import LOUDEST, Ear, Listener, initialise_rows
from factory.codes.spelling import code_tokens
from factory.codes.vocabulary import add_code_tokens, embed_documents, tables_of
from factory.domain.canon import canonical_json, tool_id
from factory.domain.records import Fluency, Tool
from factory.workspace.recipe import CodesSection, RowsName

REAL_MODEL = os.environ.get("FACTORY_REAL_MODEL", "")
"""Folder of a pretrained model, such as SmolLM2-135M-Instruct."""
SPELT_BY_TOKENS = ("residual", "quantized", "atomic")
PLAIN = """
My sister is coming on Saturday. Is there a museum that opens before ten, and how long does the
walk from the harbour take? We would rather not take a taxi, since the last driver lost his way.
"""


def make_tools(count: int) -> list[Tool]:
    documents: list[dict[str, Any]] = [
        {
            "name": f"{verb}_{noun}",
            "description": f"{verb.title()} a {noun} of the given kind.",
            "arguments": {"type": "dict", "properties": {}, "required": []},
        }
        for verb in ("get", "book", "cancel", "list", "find", "send", "move", "copy")
        for noun in ("weather", "table", "flight", "invoice", "song", "recipe", "room", "parcel")
    ]
    return [Tool(id=tool_id(document), document=document) for document in documents[:count]]


TOOLS = make_tools(64)


def load(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return model, AutoTokenizer.from_pretrained(folder)


def with_a_common_part(folder: Path, *, tied: bool) -> tuple[Any, Any]:
    """A model whose states share most of their length and are long, as those of trained models."""
    model, tokenizer = load(tiny_model(folder, tied=tied))
    with torch.no_grad():
        for weight in tables_of(model):
            weight += 2.0 * weight.norm(dim=1).mean() / weight.shape[1] ** 0.5
        model.model.norm.weight *= 8.0
    return model, tokenizer


def fit(coder: str, model: Any, tokenizer: Any) -> tuple[Codebook, Any]:
    codes = CodesSection.model_validate(
        {"coder": coder, "size": 8, "levels": 3, "dims": 8, "quantized": {"epochs": 20}}
    )
    texts = [canonical_json(tool.document) for tool in TOOLS]
    embeddings = embed_documents(model, tokenizer, texts)
    codebook = fit_codebook(TOOLS, embeddings, codes)
    return codebook, embeddings if coder == "residual" else None


def install_and_read(coder: str, how: RowsName, model: Any, tokenizer: Any) -> list[Fluency]:
    """What the model makes of plain text before its codes and with them."""
    codebook, embeddings = fit(coder, model, tokenizer)
    before = read_language(model, tokenizer, PLAIN)
    ids = install(codebook, model, tokenizer, embeddings, how=how)
    after = read_language(model, tokenizer, PLAIN, [token for row in ids for token in row])
    assert before is not None and after is not None
    return [before, after]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("coder", SPELT_BY_TOKENS)
def test_calibrated_rows_leave_language_whole(tmp_path: Path, coder: str, tied: bool) -> None:
    before, after = install_and_read(
        coder, "calibrated", *with_a_common_part(tmp_path / "model", tied=tied)
    )
    assert after.perplexity < before.perplexity * 1.02
    assert after.code_mass < 0.01


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_states_at_the_length_of_words_drown_language(tmp_path: Path, tied: bool) -> None:
    """The fault that `calibrated` mends; a model without a common part does not show it."""
    model, tokenizer = with_a_common_part(tmp_path / "model", tied=tied)
    before, after = install_and_read("residual", "scaled", model, tokenizer)
    assert after.perplexity > before.perplexity * 2
    assert after.code_mass > 0.5


@pytest.mark.skipif(not REAL_MODEL, reason="FACTORY_REAL_MODEL names no folder of a real model")
@pytest.mark.parametrize("coder", SPELT_BY_TOKENS)
def test_a_real_model_keeps_its_language(coder: str) -> None:
    before, after = install_and_read(coder, "calibrated", *load(Path(REAL_MODEL)))
    assert after.perplexity < before.perplexity * 1.02
    assert after.code_mass < 0.01


class Deaf:
    """Hears these shares, then nothing, and sees text move in the first direction alone."""

    def __init__(self, *shares: float) -> None:
        self.shares, self.heard = [*shares], list[Sequence[int]]()

    def distinguish(self, rows_MD: torch.Tensor) -> torch.Tensor:
        shrunk_MD = rows_MD.clone()
        shrunk_MD[:, 0] = 0
        return shrunk_MD

    def hear(self, token_ids: Sequence[int]) -> float:
        self.heard.append(token_ids)
        return self.shares.pop(0) if self.shares else 0.0


def write(
    model: Any, tokenizer: Any, how: RowsName, listener: Listener, *, of_states: bool = True
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Members' rows, and those of each table before and after, of two positions of 8."""
    tables = [weight.detach().numpy().copy() for weight in tables_of(model)]
    ids = add_code_tokens(tokenizer, model, code_tokens(2, 8))
    width = tables[0].shape[1]
    rows = [np.random.default_rng(level).normal(size=(8, width)) + 3 for level in (0, 1)]
    parts = [rows] * len(tables)
    initialise_rows(model, ids, parts, [range(8), range(8)], how, listener, of_states=of_states)
    flat = [token for position in ids for token in position]
    for old, weight in zip(tables, tables_of(model), strict=True):
        assert np.array_equal(weight.detach().numpy()[: len(old)], old)
    written = [weight.detach().numpy()[flat] for weight in tables_of(model)]
    return np.concatenate(rows), tables, written


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("how", [how for how in get_args(RowsName) if how != "random"])
def test_rows_are_made_as_they_are_called(tmp_path: Path, how: RowsName, tied: bool) -> None:
    members, tables, written = write(*load(tiny_model(tmp_path / "model", tied=tied)), how, Deaf())
    different = members - np.repeat([members[:8].mean(axis=0), members[8:].mean(axis=0)], 8, axis=0)
    for number, (table, rows) in enumerate(zip(tables, written, strict=True)):
        mean = table.mean(axis=0)
        spread = np.linalg.norm(table - mean, axis=1).mean()
        if number == len(tables) - 1:
            different[:, 0] = 0
        wanted = {
            "calibrated": mean + spread * different / np.linalg.norm(different, axis=1)[:, None],
            "published": members if number == 0 else np.tile(mean, (16, 1)),
            "scaled": members
            / np.linalg.norm(members, axis=1)[:, None]
            * np.linalg.norm(table, axis=1).mean(),
            "mean": np.tile(mean, (16, 1)),
        }[how]
        assert np.abs(rows - wanted).max() < 1e-5


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_names_stand_where_their_words_are(tmp_path: Path, tied: bool) -> None:
    """Output rows move to the mean row where they are heard."""
    model, tokenizer = load(tiny_model(tmp_path / "model", tied=tied))
    listener = Deaf(0.0, LOUDEST * 2)
    members, tables, written = write(model, tokenizer, "calibrated", listener, of_states=False)
    for number, (table, rows) in enumerate(zip(tables, written, strict=True)):
        mean = table.mean(axis=0)
        length = 0.7 if number == len(tables) - 1 else 1.0
        assert np.abs(rows - (mean + length * (members - mean))).max() < 1e-5


@pytest.mark.parametrize("tied", [True, False])
def test_output_rows_are_shortened_until_they_are_not_heard(tmp_path: Path, tied: bool) -> None:
    """Input rows of an untied model keep their length."""
    model, tokenizer = load(tiny_model(tmp_path / "model", tied=tied))
    listener = Deaf(0.0, *[LOUDEST * 2] * 3)
    _, tables, written = write(model, tokenizer, "calibrated", listener)
    assert len(listener.heard) == 5 and len(listener.heard[0]) == 16
    for number, (table, rows) in enumerate(zip(tables, written, strict=True)):
        mean = table.mean(axis=0)
        spread = np.linalg.norm(table - mean, axis=1).mean()
        length = np.linalg.norm(rows - mean, axis=1)
        asked = number == len(tables) - 1
        assert np.abs(length / spread - (0.7**3 if asked else 1.0)).max() < 1e-5


def test_many_tokens_are_heard_as_loud_as_their_mean_rows_make_them(tmp_path: Path) -> None:
    """What the mean row itself takes cannot be shortened away."""
    model, tokenizer = load(tiny_model(tmp_path / "model"))
    listener = Deaf(LOUDEST * 4, LOUDEST * 7)
    _, (table,), (rows,) = write(model, tokenizer, "calibrated", listener)
    mean = table.mean(axis=0)
    spread = np.linalg.norm(table - mean, axis=1).mean()
    assert np.abs(np.linalg.norm(rows - mean, axis=1) / spread - 1).max() < 1e-5


def test_numbers_without_members_stay_at_the_mean_row(tmp_path: Path) -> None:
    """What is left of their members' mean is rounding, not a direction."""
    model, tokenizer = load(tiny_model(tmp_path / "model"))
    table = model.get_input_embeddings().weight.detach().numpy().copy()
    (ids,) = add_code_tokens(tokenizer, model, code_tokens(1, 8))
    members = np.random.default_rng(0).normal(size=(8, table.shape[1])) + 20
    members[5] = np.delete(members, 5, axis=0).mean(axis=0) + 1e-14
    initialise_rows(model, [ids], [[members]], [range(8)], "calibrated", Deaf(), of_states=True)
    row = model.get_input_embeddings().weight.detach().numpy()[ids[5]]
    assert np.linalg.norm(row - table.mean(axis=0)) < 1e-3


def test_a_model_of_few_positions_is_read_in_short_windows(tmp_path: Path) -> None:
    model, tokenizer = load(tiny_model(tmp_path / "model", max_positions=32))
    read = read_language(model, tokenizer, PLAIN)
    assert read is not None and len(tokenizer(PLAIN)["input_ids"]) > 64


def test_what_text_moves_in_is_shrunk(tmp_path: Path) -> None:
    """A row along the states' common part keeps less of its length than one across it."""
    model, tokenizer = with_a_common_part(tmp_path / "model", tied=True)
    texts = [canonical_json(tool.document) for tool in TOOLS]
    common = embed_documents(model, tokenizer, texts).mean(axis=0)
    across = np.random.default_rng(1).normal(size=len(common))
    across -= common * (across @ common) / (common @ common)
    rows = np.stack([row / np.linalg.norm(row) for row in (common, across)]).astype(np.float32)
    shrunk = Ear(model, tokenizer, texts).distinguish(torch.from_numpy(rows)).norm(dim=1)
    assert float(shrunk[1] / shrunk[0]) > 5


def test_perplexity_is_that_of_the_loss(tmp_path: Path) -> None:
    model, tokenizer = load(tiny_model(tmp_path / "model"))
    ids = tokenizer(PLAIN, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        output = model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids]))
    read = read_language(model, tokenizer, PLAIN, [3, 5])
    assert read is not None
    assert read.perplexity == pytest.approx(float(output.loss.exp()), rel=1e-5)
    shares = output.logits[0, :-1].softmax(dim=1)[:, [3, 5]].sum(dim=1).mean()
    assert read.code_mass == pytest.approx(float(shares), rel=1e-5)
    assert read_language(model, tokenizer, "") is None

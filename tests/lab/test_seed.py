"""The seed model: its tokenizer, its examples, a tiny run, and the checkpoint that ships."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from factory.codes.saving import load_codebook
from factory.domain.records import Example
from factory.engines.turn import read_turn
from factory.lab.home.world import catalogue_specs
from factory.lab.seed.examples import (
    catalogue_tools,
    coded_examples,
    seed_examples,
    shipped_prompts,
)
from factory.lab.seed.tokenizer import MARK, prompt_pieces
from factory.lab.seed.training import SeedPlan, fit_tokenizer, render_card, shrink, train_seed
from factory.train.encoding import encode, render
from factory.train.examples import read_examples
from factory.workspace.folder import shipped_root
from factory.workspace.models import check_model_folder, fingerprint

SHIPPED = shipped_root() / "rounds" / "seed"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return fit_tokenizer(SeedPlan(vocabulary_size=1200), shipped_prompts())


def draw(count: int, seed: int = 11) -> list[Example]:
    return list(islice(seed_examples(Random(seed), shipped_prompts()), count))


def test_examples_are_reproducible_and_of_three_kinds() -> None:
    assert draw(30) == draw(30)
    kinds = [example.kind for example in draw(600)]
    shares = {kind: kinds.count(kind) / 600 for kind in set(kinds)}
    assert shares == pytest.approx({"gen": 0.35, "adapt": 0.1, "invoke": 0.55}, abs=0.06)


def test_shipped_card_is_made_of_the_shipped_figures() -> None:
    figures = json.loads((SHIPPED / "seed.json").read_text(encoding="utf-8"))
    assert render_card(figures) == (SHIPPED / "README.md").read_text(encoding="utf-8")


def test_coded_examples_name_tools_of_the_pool() -> None:
    known = {f"{{{{tool:{tool.id}}}}}" for tool in catalogue_tools()}
    examples = list(
        islice(coded_examples(Random(2), shipped_prompts(), catalogue_specs(), "wild"), 300)
    )
    coded = [example for example in examples if example.kind in ("code", "retrieve")]
    assert {example.kind for example in coded} == {"code", "retrieve"}
    assert {example.messages[-1].content for example in coded} <= known
    assert 0.2 < len(coded) / len(examples) < 0.4


def test_tokenizer_gives_texts_back_and_masks_the_answer_exactly(tokenizer: Any) -> None:
    turn = read_turn(tokenizer, frozenset({tokenizer.eos_token_id}))
    for example in draw(60):
        (encoded,) = encode(example.kind, example.messages, tokenizer, turn)
        turns = "".join(f"<|{m.role}|>{m.content}<|end|>" for m in example.messages)
        assert tokenizer.decode(encoded.input_ids) == turns
        assert tokenizer.decode(encoded.target_ids) == example.messages[-1].content + "<|end|>"


def test_training_sees_what_the_chat_template_renders(tokenizer: Any) -> None:
    turn = read_turn(tokenizer, frozenset({tokenizer.eos_token_id}))
    for example in draw(10):
        chat = [{"role": m.role, "content": m.content} for m in example.messages]
        rendered = tokenizer.apply_chat_template(
            chat, return_dict=True, return_assistant_tokens_mask=True
        )
        (encoded,) = encode(example.kind, example.messages, tokenizer, turn)
        assert rendered["input_ids"] == list(encoded.input_ids)
        answered = [int(label >= 0) for label in encoded.labels]
        assert rendered["assistant_masks"] == answered


@pytest.mark.parametrize("value", ["Lisbon", "San Diego", "KX-4821", "12.5", "Zorbalia Mek"])
def test_a_value_has_the_same_tokens_in_a_request_and_in_json(tokenizer: Any, value: str) -> None:
    ids = tokenizer.encode(value, add_special_tokens=False)
    for text in (f"go to {value} now", f"go to {value}.", json.dumps({"name": "x", "y": value})):
        found = tokenizer.encode(text, add_special_tokens=False)
        assert any(found[n : n + len(ids)] == ids for n in range(len(found))), text


def test_fixed_texts_of_prompts_are_single_tokens(tokenizer: Any) -> None:
    for piece in prompt_pieces(shipped_prompts()):
        assert MARK not in piece
        assert len(tokenizer.encode(piece, add_special_tokens=False)) == 1


def test_the_rate_of_a_phase_rises_once_and_falls_to_its_end() -> None:
    plan = shrink(SeedPlan(), 600)
    for phase in plan.phases:
        rates = [phase.share(step, plan.warmup) for step in range(phase.steps)]
        top = rates.index(max(rates))
        assert rates[: top + 1] == sorted(rates[: top + 1]) and top <= plan.warmup
        assert rates[top:] == sorted(rates[top:], reverse=True)
        assert rates[-1] == pytest.approx(phase.end, abs=0.02)


@pytest.mark.slow
def test_a_tiny_run_makes_a_whole_checkpoint_and_the_same_one_twice(tmp_path: Path) -> None:
    lines: list[str] = []
    plan = SeedPlan(
        vocabulary_size=800, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64,
        code_size=16, benchmarks=("home-dev",),
    )  # fmt: skip
    for name in ("one", "two"):
        train_seed(tmp_path / name, steps=6, threads=1, report=lines.append, plan=plan)
        check_model_folder(tmp_path / name)
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    assert any(line.startswith("calls 2/2") for line in lines)
    figures = json.loads((tmp_path / "one" / "seed.json").read_text())
    assert (
        sum(phase["steps"] for phase in figures["plan"]["phases"]) == 6
        and len(figures["scores"]) == 1
    )
    codebook = load_codebook(tmp_path / "one")
    assert codebook is not None and len(codebook) == 400
    assert "Seed model" in (tmp_path / "one" / "README.md").read_text()


def test_the_shipped_checkpoint_is_whole_and_small() -> None:
    check_model_folder(SHIPPED)
    assert (SHIPPED / "model.safetensors").stat().st_size < 8_000_000
    figures = json.loads((SHIPPED / "seed.json").read_text())
    assert figures["fingerprint"] == fingerprint(SHIPPED)
    home = next(score for score in figures["scores"] if score["benchmark"] == "home")
    assert 40 <= home["value"] <= 75 and all(v > 25 for v in home["categories"].values())


def test_the_shipped_codebook_covers_the_pool_and_the_replay_examples() -> None:
    codebook = load_codebook(SHIPPED)
    assert codebook is not None
    assert {tool.id for tool in catalogue_tools()} == set(codebook.tool_ids)
    examples = read_examples(SHIPPED / "replay.jsonl")
    assert {example.kind for example in examples} == {
        "gen", "adapt", "invoke", "code", "retrieve",
    }  # fmt: skip
    for example in examples:
        if example.kind == "retrieve":
            text = render(example, codebook)[-1].content
            assert codebook.tool_of(text) is not None

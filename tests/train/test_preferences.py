"""A stage of pairs: TRL's DPOTrainer on a tiny model, with all weights and with adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from conftest_models import tiny_model
from test_stages import in_stages, run, weights_of

from factory.domain.records import Example, Message
from factory.engines.turn import turn_of
from factory.train.encoding import encode_all
from factory.workspace.recipe import CodesSection, Recipe, StageSection, TrainSection

PREFER = StageSection(
    kinds=("dpo",), epochs=6, learning_rate=5e-3, batch_size=4, micro_batch_size=2, max_length=512
)
FIRST = StageSection(kinds=("invoke",), epochs=1, batch_size=4, micro_batch_size=2)


def chats(kind: Literal["invoke", "dpo"], count: int = 6) -> list[Example]:
    """Requests whose right answer is the city that they name, the losing one another."""
    made = []
    for number in range(count):
        asked = Message(role="user", content=f"Weather in town {number}?")
        right = Message(role="assistant", content=f'{{"city": "town {number}"}}')
        text = f'{{"city": "Oslo", "days": {number}, "table": "for 4 people"}}'
        wrong = Message(role="assistant", content=text, loss=False)
        messages = (asked, right, *((wrong,) if kind == "dpo" else ()))
        made.append(Example(kind=kind, messages=messages, origin=f"r1/q_{number}"))
    return made


def margin(folder: Path, examples: list[Example]) -> float:
    """Mean log-probability of right answers above losing ones, under a model folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = encode_all(
        examples, codes=None, outliers=frozenset(), tokenizer=tokenizer,
        turn=turn_of(model, tokenizer), max_length=512,
    ).examples  # fmt: skip
    total = 0.0
    for each in encoded:
        prompt = list(each.input_ids[: -len(each.target_ids)])
        for sign, answer in ((1, each.target_ids), (-1, list(each.rejected))):
            ids = torch.tensor([prompt + answer])
            with torch.no_grad():
                log_probs = model(ids).logits[0, :-1].log_softmax(-1)
            found = log_probs.gather(1, ids[0, 1:, None])[-len(answer) :]
            total += sign * float(found.sum())
    return total / len(encoded)


def test_a_pair_is_encoded_with_both_answers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turn = turn_of(AutoModelForCausalLM.from_pretrained(folder), tokenizer)

    def encode(examples: list[Example], longest: int = 512):  # type: ignore[no-untyped-def]
        return encode_all(
            examples, codes=None, outliers=frozenset(), tokenizer=tokenizer, turn=turn,
            max_length=longest,
        )  # fmt: skip

    (pair,) = encode(chats("dpo", 1)).examples
    (alone,) = encode(chats("invoke", 1)).examples
    assert pair.input_ids == alone.input_ids and pair.labels == alone.labels
    assert tokenizer.decode(pair.rejected) == f"{chats('dpo', 1)[0].messages[-1].content}<|end|>"
    assert alone.length == len(alone.input_ids)
    longer = len(pair.rejected) - len(pair.target_ids)
    assert longer > 0 and pair.length == alone.length + longer
    assert encode(chats("dpo", 1), alone.length).dropped == {"dpo/too_long": 1}
    broken = chats("dpo", 1)[0]
    messages = (*broken.messages[:-1], replace(broken.messages[-1], content="a\ud800"))
    assert encode([replace(broken, messages=messages)]).dropped == {"dpo/not_unicode": 1}


def test_pairs_are_a_stage_of_their_own() -> None:
    both = {"kinds": ["dpo", "invoke"]}
    for bad in (both, {"kinds": ["dpo"], "rows_only": True}, {"kinds": ["dpo"], "beta": 0}):
        with pytest.raises(ValueError, match=r"dpo|beta"):
            StageSection.model_validate(bad)
    train = {"method": "full", "processes": 2}
    with pytest.raises(ValueError, match="dpo trains in one process"):
        Recipe.model_validate({"train": train, "stage": [{"kinds": ["dpo"]}]})
    assert Recipe(stage=(PREFER,)).prefers and not Recipe(stage=(FIRST,)).prefers
    assert "beta" not in PREFER.known_by()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_stage_of_pairs_prefers_the_right_answers(
    method: Literal["full", "lora"], tmp_path: Path
) -> None:
    base = tiny_model(tmp_path / "base", max_positions=1024)
    pairs = chats("dpo")
    setup = replace(
        in_stages(FIRST, PREFER, FIRST, method=method), codes=CodesSection(coder="none")
    )
    done, phases = run(tmp_path / "run", base, [*chats("invoke"), *pairs], setup, [])
    assert "stage 2 of 3, dpo: training on 6 examples" in phases
    assert [stage["steps"] for stage in done["stages"]] == [2, 12, 2]
    losses = [step["losses"]["dpo"] for step in done["log"] if step["stage"] == 2]
    assert losses[0] == pytest.approx(0.6931, abs=0.05) and losses[-1] < 0.5 * losses[0]
    made = tmp_path / "run" / "out"
    assert weights_of(made).keys() == weights_of(base).keys()
    assert margin(made, pairs) > margin(base, pairs) + 5
    assert setup.train == TrainSection.model_validate(setup.train.model_dump())

"""`python -m bench.training`: the time that training takes, by how a step is cut and scored.

The embedded model learns its own replay examples (all weights, one epoch) in one forward pass a
step, in micro-batches drawn at random, and in micro-batches of like length; then, as the factory
does on a CPU, with the language head only on the positions that have loss: TRL without Triton takes
all. All ways have as many examples in a step, and a step's gradient is the same in all.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.table import Cell, print_machine, print_table
from factory.train import trainer
from factory.train.encoding import encode_all
from factory.train.examples import read_examples
from factory.train.job import TrainingJob, TrainingSetup
from factory.train.learner import load_learner
from factory.workspace.folder import shipped_root
from factory.workspace.recipe import TrainSection


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--examples", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--micro", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    print_machine("torch", "trl", "transformers")
    import torch

    torch.set_num_threads(arguments.threads)
    rows: list[list[Cell]] = []
    score_all, score_targets = trainer.score_fused, trainer.score_answers
    few, whole = arguments.micro, arguments.batch
    for name, micro, sorts, all_positions in (
        ("one pass a step", whole, False, True),
        ("random micro-batches", few, False, True),
        ("micro-batches of like length", few, True, True),
        ("the same, head where there is loss (factory)", few, True, False),
    ):
        score = score_all if all_positions else score_targets
        vars(trainer)["score_answers"] = score
        seconds, padded = run(arguments.examples, arguments.batch, micro, sorts)
        ratio = seconds / float(rows[0][2] or 1) if rows else 1.0
        rows.append([name, padded, seconds, 1 / ratio])
    title = f"{arguments.examples} examples in steps of {arguments.batch}, CPU"
    print_table(title, ("way", "positions a token", "cpu s", "ratio"), rows)


def run(num: int, batch: int, micro: int, sorts: bool) -> tuple[float, float]:
    """CPU seconds of an epoch, and positions that pass through the model, pads too, a token."""
    from torch.utils.data import RandomSampler

    seed = shipped_root() / "rounds" / "seed"
    with tempfile.TemporaryDirectory() as folder:
        job = TrainingJob(
            checkpoint=seed,
            out=Path(folder) / "out",
            examples=seed / "replay.jsonl",
            new_tools=Path(folder) / "none",
            workspace=shipped_root(),
            setup=TrainingSetup(
                train=TrainSection(method="full", batch_size=batch, micro_batch_size=micro)
            ),
        )
        learner = load_learner(job)
        encoded = encode_all(
            read_examples(job.examples)[:num],
            codes=learner.codebook,
            outliers=frozenset(),
            tokenizer=learner.tokenizer,
            turn=learner.turn,
            max_length=1024,
        )
        trained = trainer.make_trainer(
            learner, encoded.examples, learner.codebook, job.setup, folder
        )
        if not sorts:
            trained.__dict__["_get_train_sampler"] = RandomSampler
        seen = _count_positions(trained)
        started = time.process_time()
        trained.train()
        seconds = time.process_time() - started
        return seconds, sum(seen) / sum(len(each.input_ids) for each in encoded.examples)


def _count_positions(trainer: Any) -> list[int]:
    """Positions of each forward pass, to be filled while training."""
    seen: list[int] = []
    trainer.model.register_forward_pre_hook(
        lambda module, args, inputs: seen.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    return seen


if __name__ == "__main__":
    main()

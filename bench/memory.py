"""`python -m bench.memory [MODEL]`: the memory that a training takes, by its method and examples.

What factory/train/memory.py tells before a round against the peak of a real training on this CPU:
two steps over examples of the longest length with loss on every token, in a process of its own,
whose size before the model is loaded is taken off. Without MODEL the embedded one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.table import Cell, peak_rss_mib, print_machine, print_table
from factory.train.encoding import Encoded
from factory.train.job import TrainingJob, TrainingSetup
from factory.train.learner import load_learner
from factory.train.memory import training_memory
from factory.train.trainer import make_trainer
from factory.workspace.folder import shipped_root
from factory.workspace.machine import computes_halves
from factory.workspace.recipe import CodesSection, TrainSection

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    seed = shipped_root() / "rounds" / "seed"
    parser.add_argument("model", nargs="?", type=Path, default=seed)
    parser.add_argument("--methods", nargs="+", default=["full", "lora"])
    parser.add_argument("--micro", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(measure(arguments.model, TrainSection(**json.loads(arguments.one))))
        return
    print_machine("torch", "trl", "transformers")
    rows: list[list[Cell]] = []
    for method in arguments.methods:
        for micro in arguments.micro:
            for length in arguments.lengths:
                train = TrainSection(
                    method=method, batch_size=micro, micro_batch_size=micro, max_length=length
                )
                told = training_memory(arguments.model, train, gpu=False, halves=computes_halves())
                peak = _measure_apart(arguments.model, train)
                name = f"{method}, {micro} of {length} tokens"
                rows.append([name, peak, told.total / MIB, told.total / MIB / peak])
    title = f"{arguments.model.name}: MiB that training takes"
    print_table(title, ("training", "measured", "told", "ratio"), rows)


def _measure_apart(model: Path, train: TrainSection) -> float:
    command = [sys.executable, "-m", "bench.memory", str(model), "--one", train.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def measure(model: Path, train: TrainSection) -> float:
    """MiB that two steps take beyond the process itself."""
    with tempfile.TemporaryDirectory() as folder:
        job = TrainingJob(
            checkpoint=model,
            out=Path(folder) / "out",
            examples=Path(folder) / "none",
            new_tools=Path(folder) / "none",
            workspace=shipped_root(),
            setup=TrainingSetup(train=train, codes=CodesSection(coder="none")),
        )
        before = peak_rss_mib()
        learner = load_learner(job)
        ids = tuple(number % 1000 for number in range(train.max_length))
        example = Encoded(
            input_ids=ids,
            labels=ids,
            spans=((1, len(ids)),),
            kind="gen",
            example=0,
        )
        examples = [example] * (2 * train.batch_size)
        make_trainer(learner, examples, None, job.setup, folder).train()
        return peak_rss_mib() - before


if __name__ == "__main__":
    main()

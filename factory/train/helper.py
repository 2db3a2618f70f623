"""A further process of a training: `python -m factory.train.helper`, started by factory.train.team.

Its standard input names a folder for each stage. It never has the whole model: weights come from
the first process, part by part, and go back to it.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

import torch
from accelerate import init_empty_weights
from datasets import load_from_disk
from torch import distributed
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from factory.domain.exhausted import OUT_OF_MEMORY, is_out_of_memory
from factory.domain.limits import die_with_parent
from factory.train.team import MODEL, PLAN, ROWS, collect, join
from factory.train.trainer import StagePlan, build_trainer


def make_shell(folder: Path) -> PreTrainedModel:
    """A model of a folder's config whose weights have a shape but no values."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # accelerate tells weights apart by their place in memory, which a meta tensor has none of;
    # memory that is never written to is never taken.
    for part in model.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                empty = torch.empty_like(weight, device="cpu")
                part._parameters[name] = torch.nn.Parameter(empty, weight.requires_grad)
    model.tie_weights()
    return model


def train_part(folder: Path) -> None:
    """One stage, as the first process has written it down."""
    plan = StagePlan(**json.loads((folder / PLAN).read_text("utf-8")))
    tokenizer = AutoTokenizer.from_pretrained(folder / MODEL, local_files_only=True)
    dataset = load_from_disk(folder / ROWS)
    trainer = build_trainer(make_shell(folder / MODEL), tokenizer, dataset, plan)
    trainer.train()
    collect(trainer.model, None)


def main(arguments: list[str]) -> None:
    rank, size, port, gpu, parent = map(int, arguments)
    die_with_parent(parent)
    store = distributed.TCPStore("127.0.0.1", port, size, is_master=False)
    join(store, rank, size, bool(gpu))
    for line in sys.stdin:
        train_part(Path(json.loads(line)))
    # At once: gloo may hang in its own clean-up.
    os._exit(0)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        # The first process ends in the same way, and the command reads why.
        os._exit(OUT_OF_MEMORY if is_out_of_memory(error) else 1)

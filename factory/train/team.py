"""Several processes that share a training of all weights, one a GPU (FSDP by accelerate).

The child of a training is the first of them. It prepares everything alone, codes included; for each
stage it tells the helpers (`python -m factory.train.helper`) of a folder with the examples, and all
train together: each keeps a part of the weights, gradients and moments, and takes its share of a
step's micro-batches. After a stage the first one's model has the new weights, whole, and goes on
alone. It keeps them in the machine's memory meanwhile.

A helper that dies takes the child with it, in the same way, so that the command starts both again;
helpers end with the child, however it ends.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import distributed
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

SHARDING: dict[str, Any] = {
    "version": 2,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "reshard_after_forward": True,
    "cpu_ram_efficient_loading": True,
    "state_dict_type": "FULL_STATE_DICT",
}
"""FSDP as TrainingArguments take it: each layer is a unit, weights come from the first process."""
PLAN, ROWS, MODEL = "plan.json", "rows", "model"
"""What a stage's folder holds for the helpers."""
GRACE_SECONDS = 5.0
"""From a helper's death to the child's, whose own failure may be on its way to the command."""
_WRAPPED = "_checkpoint_wrapped_module."


class Team:
    """The child's helpers, started at the first stage."""

    def __init__(self, size: int, gpu: bool) -> None:
        self.size = size
        self._gpu = gpu
        self._helpers: list[subprocess.Popen[str]] = []
        self._store: distributed.TCPStore | None = None
        self._closed = False

    def share(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        plan: dict[str, Any],
        folder: Path,
    ) -> PreTrainedModel:
        """Tell the helpers of a stage; a shell of the model, to be taken apart for it."""
        model.config.save_pretrained(folder / MODEL)
        tokenizer.save_pretrained(folder / MODEL)
        dataset.save_to_disk(folder / ROWS)
        (folder / PLAN).write_text(json.dumps(plan), encoding="utf-8")
        model.to("cpu")
        if self._gpu:
            torch.cuda.empty_cache()
        if not self._helpers:
            self._start()
        for helper in self._helpers:
            assert helper.stdin is not None
            helper.stdin.write(json.dumps(str(folder)) + "\n")
            helper.stdin.flush()
        weights = {id(weight): weight for weight in model.parameters()}
        shell: PreTrainedModel = copy.deepcopy(model, weights)
        return shell

    def collect(self, shell: PreTrainedModel, model: PreTrainedModel) -> None:
        """Give the model the weights that the processes have."""
        collect(shell, model)
        if self._gpu:
            model.to("cuda")

    def close(self) -> None:
        """Let the helpers end."""
        self._closed = True
        for helper in self._helpers:
            assert helper.stdin is not None
            helper.stdin.close()

    def _start(self) -> None:
        self._store = distributed.TCPStore(
            "127.0.0.1", 0, self.size, is_master=True, wait_for_workers=False
        )
        told = [str(self.size), str(self._store.port), str(int(self._gpu)), str(os.getpid())]
        self._helpers = [
            subprocess.Popen(
                [sys.executable, "-m", "factory.train.helper", str(rank), *told],
                stdin=subprocess.PIPE,
                text=True,
            )
            for rank in range(1, self.size)
        ]
        threading.Thread(target=self._watch, name="helpers", daemon=True).start()
        join(self._store, 0, self.size, self._gpu)

    def follow_the_dead(self, seconds: float = 1.0) -> None:
        """End as a helper has ended whose death this process has just met; else return."""
        deadline = time.monotonic() + seconds
        while (dead := self._find_dead()) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if dead is not None:
            traceback.print_exc()
            end_as(dead)

    def _watch(self) -> None:
        """End this process as a helper that has died, even where it waits for that for good."""
        while not self._closed:
            if (dead := self._find_dead()) is not None:
                time.sleep(GRACE_SECONDS)
                print(f"one of the {self.size} processes has died")
                end_as(dead)
            time.sleep(0.2)

    def _find_dead(self) -> int | None:
        """The exit code of a helper that has ended, as subprocess has it; None: all live."""
        codes = (helper.poll() for helper in self._helpers)
        return next((code for code in codes if code is not None), None)


def end_as(code: int) -> None:
    """End this process by the signal, or with the exit code, that another has ended with."""
    sys.stdout.flush()
    if code < 0:
        os.kill(os.getpid(), signal.Signals(-code))
    os._exit(code or 1)


def join(store: distributed.TCPStore, rank: int, size: int, gpu: bool) -> None:
    """Make this process one of `size`."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ |= {name: str(value) for name, value in places.items()}
    if gpu:
        torch.cuda.set_device(rank)
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size)


def allow_sharding(arguments: TrainingArguments) -> None:
    """What TrainingArguments have no words for: gradients add up in single precision, as without
    FSDP, and a CPU shards as torch lets it, though accelerate does not."""
    if arguments.bf16:
        arguments.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32
        )
    if arguments.use_cpu:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def collect(shell: PreTrainedModel, model: PreTrainedModel | None) -> None:
    """Bring the parts of each weight together, in all processes at once, one after the other; the
    first process has the model that they belong to."""
    weights = {} if model is None else dict(model.named_parameters())
    for name, part in shell.named_parameters():
        whole = part.full_tensor()
        if model is not None:
            weights[name.replace(_WRAPPED, "")].data.copy_(whole)

"""What training all weights takes, as told before a round, against what torch keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest_models import tiny_model

from factory.workspace.machine import num_weights, training_memory


@pytest.mark.parametrize(
    ("hidden", "layers", "batch", "length"), [(64, 2, 4, 128), (128, 3, 2, 96)]
)
def test_the_memory_of_a_training_is_what_torch_keeps(
    hidden: int, layers: int, batch: int, length: int, tmp_path: Path
) -> None:
    """A step of Adam on a model in single precision; the head is not run, as on a GPU."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tiny_model(tmp_path / "model", hidden=hidden, layers=layers)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    owned = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.randint(5, 90, (batch, length), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = model.model(input_ids=ids, use_cache=False).last_hidden_state
    optimizer = torch.optim.Adam(model.parameters())
    states.sum().backward()
    optimizer.step()
    gradients = sum(w.grad.nbytes for w in model.parameters() if w.grad is not None)
    moments = sum(v.nbytes for s in optimizer.state.values() for n, v in s.items() if n != "step")
    told = training_memory(folder, batch, length, gpu=True)
    assert num_weights(folder) == model.num_parameters()
    assert told.weights == sum(weight.nbytes for weight in model.parameters())
    assert (told.gradients, told.moments) == (gradients, moments)
    assert told.activations == pytest.approx(sum(s.nbytes() for s in kept.values()), rel=0.05)
    longer = training_memory(folder, batch, 10**6, gpu=True)
    assert longer.activations == told.activations // length * 512  # as far as the model reads

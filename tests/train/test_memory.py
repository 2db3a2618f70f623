"""What training all weights takes, as told before a round, against what torch keeps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from conftest_models import tiny_model

from factory.domain.failures import ModelError
from factory.train.memory import memory_of, training_memory, weight_shapes
from factory.workspace.recipe import Recipe, TrainSection, vary


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
    train = TrainSection(method="full", batch_size=batch, micro_batch_size=batch, max_length=length)
    told = training_memory(folder, train, gpu=True, halves=False)
    shapes = weight_shapes(folder)
    assert sum(map(math.prod, shapes.values())) == model.num_parameters()
    assert told.weights == sum(weight.nbytes for weight in model.parameters())
    assert (told.gradients, told.moments) == (gradients, moments)
    assert told.activations == pytest.approx(sum(s.nbytes() for s in kept.values()), rel=0.05)
    longer = training_memory(folder, vary(train, max_length=10**6), gpu=True, halves=False)
    assert longer.activations == told.activations // length * 512  # as far as the model reads


def test_each_choice_takes_what_it_says(tmp_path: Path) -> None:
    """8 bits are a quarter of the moments but the embeddings', pages are the machine's; processes
    share everything but what a GPU brings together; adapters are a few weights."""
    folder = tiny_model(tmp_path / "model", tied=False)
    shapes = weight_shapes(folder)
    number = sum(map(math.prod, shapes.values()))
    table = math.prod(shapes["model.embed_tokens.weight"])
    train = TrainSection(method="full", batch_size=8, micro_batch_size=1, max_length=64)

    def take(processes: int = 1, gpu: bool = True, **values: Any) -> Any:
        varied = vary(train, **values)
        return training_memory(folder, varied, gpu=gpu, halves=True, processes=processes)

    whole = take()
    assert whole[:4] == (4 * number, 4 * number, 8 * number, 2 * number) and not whole.host
    assert whole.fixed == 18 * number and whole.total > whole.fixed
    eight = take(optimizer="adamw_8bit")
    assert eight.moments == 8 * table + 2 * (number - table)
    paged = take(optimizer="paged_adamw_8bit")
    assert (paged.moments, paged.host) == (0, eight.moments)
    four = take(processes=4)
    assert four[:3] == tuple(size // 4 for size in whole[:3]) and four.host == 4 * number
    assert four.copies > 0 and four.activations == whole.activations
    together = take(processes=4, gpu=False)
    assert together.weights == pytest.approx(8 * number, abs=16)
    adapters = take(method="lora", lora_rank=2)
    linear = [shape for name, shape in shapes.items() if "proj" in name]
    trained = sum(2 * (rows + columns) for rows, columns in linear)
    assert adapters[:4] == (2 * number + 4 * trained, 4 * trained, 8 * trained, 0)
    assert take(method="lora", gpu=False).copies == 2 * number


def test_the_largest_stage_decides(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    recipe = Recipe.model_validate(
        {
            "train": {"micro_batch_size": 2, "max_length": 32},
            "stage": [{"kinds": ["gen"]}, {"kinds": ["adapt"], "max_length": 128}],
        }
    )
    told = memory_of(recipe, folder, gpu=False, dtype="float32")
    alone = vary(recipe.train, max_length=128)
    assert told == training_memory(folder, alone, gpu=False, halves=False)


@pytest.mark.parametrize("content", [b"", b"{}"])
def test_a_file_without_weights_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="no file of weights") as caught:
        weight_shapes(tmp_path)
    assert caught.value.where.endswith("model.safetensors") and caught.value.remedy

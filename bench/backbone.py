"""A small causal model from scratch for benches: BPE, a Llama, and language modelling on texts.

It stands in for the model a user brings where none can be downloaded. What a bench shows with it is
how ways compare under one budget, not what a large model reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPECIAL = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Sizes and schedule. Example: Size(steps=100)."""

    vocabulary: int = 6000
    """Byte pairs."""
    hidden: int = 192
    """Width."""
    layers: int = 4
    """Transformer blocks."""
    length: int = 256
    """Tokens of a packed row."""
    batch: int = 16
    """Rows a step."""
    steps: int = 400
    """Optimiser steps of language modelling."""
    rate: float = 2e-3
    """Peak learning rate of AdamW, cosine."""


def make_backbone(folder: Path, texts: Sequence[str], size: Size, seed: int = 0) -> Path:
    """Write a model folder trained to continue `texts`; returns the folder."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer = _make_tokenizer(texts, size)
    model = _make_model(tokenizer, size, seed)
    arguments = SFTConfig(
        output_dir=str(folder.with_name(folder.name + ".trainer")),
        max_length=size.length,
        packing=True,
        packing_strategy="wrapped",
        per_device_train_batch_size=size.batch,
        max_steps=size.steps,
        learning_rate=size.rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=50,
        seed=seed,
    )
    rows = Dataset.from_dict({"text": [text + SPECIAL[1] for text in texts]})
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=rows, processing_class=tokenizer
    )
    trainer.train()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _make_tokenizer(texts: Sequence[str], size: Size) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size.vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        additional_special_tokens=list(SPECIAL[2:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def _make_model(tokenizer: Any, size: Size, seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.hidden,
            intermediate_size=5 * size.hidden // 2,
            num_hidden_layers=size.layers,
            num_attention_heads=size.hidden // 32,
            num_key_value_heads=size.hidden // 32,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )

"""Tiny random models, made on the fly, for tests that need a real model folder.

`tiny_model(folder)` writes what `from_pretrained` and vLLM load as they are: a random Llama, a
byte-level BPE tokenizer and a chat template with generation markers. It takes about a second.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""`<|role|>content<|end|>` for each message; the turn's end is part of the assistant's text."""

SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")

CORPUS = (
    'What is the weather in Oslo tomorrow? Book a table for 4 people at "La Vigna" on Friday.',
    '[{"name": "get_weather", "arguments": {"city": "Oslo", "days": 1}}]',
    '{"name": "book_table", "description": "Book a table.", "arguments": {"type": "dict", '
    '"properties": {"people": {"type": "integer", "description": "How many people."}}, '
    '"required": ["people"]}, "results": {"type": "dict", "properties": {}}}',
)


def code_names(levels: int, size: int) -> list[list[str]]:
    """Code tokens by level, e.g. [["<a_0>", "<a_1>"], ["<b_0>", "<b_1>"]]."""
    return [[f"<{chr(97 + level)}_{k}>" for k in range(size)] for level in range(levels)]


def tiny_model(
    folder: Path,
    *,
    extra_tokens: Iterable[str] = (),
    seed: int = 0,
    hidden: int = 64,
    layers: int = 2,
    tied: bool = True,
    max_positions: int = 512,
    repeats: bool = False,
) -> Path:
    """Write a random Llama of about 0.2 M parameters to `folder` and return the folder.

    `extra_tokens` are added to the vocabulary as ordinary (not special) atomic tokens, the way
    code tokens are. One that `repeats` has layers that add nothing: it writes the last token of its
    prompt again and again, whatever a processor's rounding. The same arguments give the same bytes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from tokenizers import AddedToken
        from transformers import LlamaConfig, LlamaForCausalLM

        tokenizer = make_tokenizer()
        tokenizer.add_tokens(
            [AddedToken(token, special=False, normalized=False) for token in extra_tokens]
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=len(tokenizer),
                    hidden_size=hidden,
                    intermediate_size=2 * hidden,
                    num_hidden_layers=layers,
                    num_attention_heads=hidden // 32,
                    num_key_value_heads=hidden // 32,
                    max_position_embeddings=max_positions,
                    tie_word_embeddings=tied,
                    initializer_range=0.3,
                    pad_token_id=tokenizer.pad_token_id,
                    bos_token_id=None,
                    eos_token_id=tokenizer.eos_token_id,
                )
            )
        if repeats:
            for layer in model.model.layers:
                torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
                torch.nn.init.zeros_(layer.mlp.down_proj.weight)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def tiny_multimodal(folder: Path, *, extra_tokens: Iterable[str] = ()) -> Path:
    """Write a random Gemma 3 that also reads images, whose sizes its config has a level deeper."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from transformers import Gemma3Config, Gemma3ForConditionalGeneration

        tokenizer = make_tokenizer()
        tokenizer.add_tokens(list(extra_tokens))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Gemma3ForConditionalGeneration(
                Gemma3Config(
                    text_config={
                        "vocab_size": len(tokenizer),
                        "hidden_size": 64,
                        "intermediate_size": 128,
                        "num_hidden_layers": 2,
                        "num_attention_heads": 2,
                        "num_key_value_heads": 1,
                        "head_dim": 32,
                        "max_position_embeddings": 1024,
                        "layer_types": ["sliding_attention", "full_attention"],
                        "sliding_window": 16,
                        "initializer_range": 0.3,
                    },
                    vision_config={
                        "hidden_size": 32,
                        "intermediate_size": 64,
                        "num_hidden_layers": 1,
                        "num_attention_heads": 2,
                        "image_size": 28,
                        "patch_size": 14,
                    },
                    mm_tokens_per_image=4,
                    image_token_index=10,
                    boi_token_index=11,
                    eoi_token_index=12,
                    pad_token_id=tokenizer.pad_token_id,
                    bos_token_id=None,
                    eos_token_id=tokenizer.eos_token_id,
                )
            )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer() -> Any:
    """Byte-level BPE over CORPUS with single digits, about 400 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer

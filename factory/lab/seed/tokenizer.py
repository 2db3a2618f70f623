"""The seed model's tokenizer: short sequences, and values that look alike wherever they stand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from factory.workspace.prompts import Prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, SYSTEM, USER, ASSISTANT, END = "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
JSON_PIECES = (
    '{"name": "', '", "description": "', '", "arguments": {"type": "dict", "properties": {"',
    '": {"type": "string", "description": "', '": {"type": "integer", "description": "',
    '": {"type": "float", "description": "', '": {"type": "boolean", "description": "',
    '": {"type": "array", "description": "', '"}, "', '"}}, "required": ["',
    '", "enum": ["', '"]}, "', '"]}}, "required": ["', '", "items": {"type": "string"}}, "',
    '", "items": {"type": "string"}}}, "required": ["', '", "', '"]}}',
    '"]}, "results": {"type": "dict", "properties": {"', '"}}}}',
    '", "items": {"type": "string"}}}}}', "<tools>\n", "\n</tools>",
    '<tool_call>\n{"name": "', '", "arguments": {"', '": "', '": ', '": ["', '"], "', ', "',
    '"}}\n</tool_call>', '}}\n</tool_call>', '"]}}\n</tool_call>',
)  # fmt: skip
"""JSON skeleton of documents and calls, one token each: sequences become three times shorter."""
SPACED_WORDS = (
    "a", "an", "the", "and", "in", "on", "at", "for", "to", "from", "of", "with", "by", "under",
    "within", "as", "is", "in the", "with a", "for the", "to the", "of the",
)  # fmt: skip
"""Words that are one token together with the spaces around them."""
PATTERN = r"\p{Lu}?\p{Ll}+|\p{L}|\d|\s|[^\p{L}\d\s]"
"""A word, a digit, a space or a sign is one piece. The space is no part of the word after it, so
that a value has the same tokens in a request and in JSON, where a quote stands before it."""
MARK = "\x00"
"""Stands for a prompt's variables."""


def prompt_pieces(prompts: Prompts) -> list[str]:
    """The fixed texts of the prompts: what lies around their variables."""
    tool = {"name": MARK, "description": MARK, "arguments": MARK}
    head, rest = prompts.render("calls/system", tools=[tool]).split("\n{", 1)
    return [
        prompts.render("tools/system"),
        prompts.render("tools/adapt", description=MARK).replace(MARK, ""),
        prompts.render("tools/generate", query=MARK).replace(MARK, ""),
        head + "\n",
        "\n" + rest.split("}\n", 1)[1],
    ]


def make_tokenizer(texts: Iterable[str], prompts: Prompts, size: int) -> PreTrainedTokenizerBase:
    """A transformers fast tokenizer, fitted to `texts`: `size` byte pairs and the boilerplate."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, SYSTEM, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    spaced = [f" {word} " for word in SPACED_WORDS]
    fixed = dict.fromkeys([*prompt_pieces(prompts), *JSON_PIECES, *spaced, ", "])
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in fixed])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )

"""Whether the parts of a model folder fit together: weights, config, tokenizer and settings.

What does not fit would be sampled, trained and scored all the same, with random weights or up to a
crash after hours. Of the weights only headers and slices are read, and torch is not needed: the
check before a round has none (factory.engines.trainable_child), a child that serves asks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from factory.codes.literal import encoder_of
from factory.domain.bounded import parse_json, read_text
from factory.domain.failures import ModelError
from factory.domain.records import Message, Request, Sampling
from factory.engines.chat import Chat
from factory.engines.generation import mend_generation
from factory.engines.turn import as_template, render
from factory.workspace.architecture import embedding_rows, find_fault
from factory.workspace.weights import Weight, find_no_number, read_weights

OTHER_MODEL = "take a model that AutoModelForCausalLM loads; this one can be scored (factory score)"
UNQUANTISED = (
    "take the model's folder as it was before it was quantised (its name without AWQ, GPTQ, w8a8, "
    "bnb, FP8 and the like); this one can be scored (factory score)"
)
FLOATS = ("F64", "F32", "F16", "BF16", "")
"""Types of weights that can be trained; a file of torch's does not say which it has."""


def check_fitting(
    folder: Path, chats: Iterable[Sequence[Message]] = (), *, training: bool
) -> tuple[int, int]:
    """Raise ModelError where the parts do not fit, or `chats` cannot be rendered.

    With `training`, also where no round could train it. Returns how many bytes of the weights were
    looked at for NaN, and of how many.
    """
    config = _read_config(folder)
    if training:
        _check_class(folder, config)
    weights = read_weights(folder)
    table = _as_table(folder, config)
    if method := _quantised(table):
        if training:
            what = f"the weights are quantised ({method}), and training would ruin them"
            raise ModelError(what, where=str(folder / "config.json"), remedy=UNQUANTISED)
    else:
        _check_weights(folder, table, weights)
    chat = Chat(folder)
    rows = embedding_rows(table, {name: weight.shape for name, weight in weights.items()})
    _check_rows(folder, chat, rows)
    _check_chats(folder, chat, rows, chats)
    if training:
        if chat.fault is not None:
            raise chat.fault
        mend_generation(_read_generation(folder, config), folder)
    return _look(folder, weights)


def _read_config(folder: Path) -> PreTrainedConfig | None:
    """The config as transformers has it; None for one that wants torch to be read."""
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ImportError:
        return None
    except Exception as error:  # of what kind it is depends on the model's class
        what = f"transformers cannot read this model's config: {error}"
        raise ModelError(what, where=str(folder), remedy=OTHER_MODEL) from error


def _check_class(folder: Path, config: PreTrainedConfig | None) -> None:
    """Raise ModelError where transformers has no causal language model for the config."""
    if config is not None and config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        what = f"transformers trains no language model of the type {config.model_type!r}"
        raise ModelError(what, where=str(folder / "config.json"), remedy=OTHER_MODEL)


def _as_table(folder: Path, config: PreTrainedConfig | None) -> dict[str, Any]:
    """The config with its defaults, else as the file has it."""
    file = folder / "config.json"
    table: dict[str, Any] = parse_json(read_text(file, error=ModelError), str(file), ModelError)
    if config is not None:
        table |= config.to_dict()
        text = config.get_text_config()
        for key in ("num_hidden_layers", "vocab_size", "tie_word_embeddings"):
            table.setdefault(key, getattr(text, key, None))
    return table


def _quantised(table: Mapping[str, Any]) -> str:
    """How, as the config says; empty where it says nothing."""
    said = table.get("quantization_config") or table.get("compression_config")
    return str(said.get("quant_method", "in a way that it does not name")) if said else ""


def _check_weights(folder: Path, table: Mapping[str, Any], weights: Mapping[str, Weight]) -> None:
    """Names, shapes and types."""
    odd = [
        (name, weight.dtype)
        for name, weight in weights.items()
        if name.endswith(".weight") and weight.dtype not in FLOATS
    ]
    if odd:
        raise ModelError(
            f"{len(odd)} weights such as {odd[0][0]} are of type {odd[0][1]}, and config.json "
            "has no quantization_config that says how they are read",
            where=str(folder),
            remedy=UNQUANTISED,
        )
    if fault := find_fault(table, {name: weight.shape for name, weight in weights.items()}):
        raise ModelError(
            f"the weights are not those of the config: {fault}",
            where=str(folder),
            remedy="take config.json and weights of the same model, saved by save_pretrained of "
            "the bare model",
        )


def _check_rows(folder: Path, chat: Chat, rows: int) -> None:
    """Raise ModelError for tokens beyond the rows of the embeddings that a prompt would hold."""
    if not rows:
        return
    tokenizer = chat.tokenizer
    told = f"the model has rows for {rows} tokens, 0 to {rows - 1}"
    if beyond := [token for token in chat.end_ids if token >= rows]:
        raise ModelError(
            f"token {beyond[0]} is to end answers, and {told}",
            where=str(folder / "generation_config.json"),
            remedy="take it out of eos_token_id there (or in config.json, tokenizer_config.json)",
        )
    resize = (
        "take the tokenizer that the model was trained with, or give it rows: "
        "model.resize_token_embeddings(len(tokenizer))"
    )
    pad = tokenizer.pad_token_id
    if pad is not None and pad >= rows:
        raise ModelError(
            f"the pad token {tokenizer.pad_token!r} has id {pad}, and {told}",
            where=str(folder / "tokenizer_config.json"),
            remedy=f"name a token that has a row as pad_token, such as eos_token; or {resize}",
        )
    added = tokenizer.added_tokens_decoder
    lost = {
        token: text
        for text, token in tokenizer.get_vocab().items()
        if token >= rows and not (token in added and added[token].special)
    }
    if lost:
        raise ModelError(
            f"{len(lost)} tokens such as {lost[min(lost)]!r} have no row: {told}",
            where=str(folder),
            remedy=resize,
        )


def _check_chats(folder: Path, chat: Chat, rows: int, chats: Iterable[Sequence[Message]]) -> None:
    """Raise ModelError where the template refuses a chat, or has tokens in it that have no row."""
    for messages in chats:
        *_, last = messages
        if last.role == "assistant":
            said, tools = as_template(messages, encoder_of(chat.tokenizer, chat.end_ids))
            render(chat.tokenizer, said, answer_next=False, tools=tools)
            continue
        ids = chat.encode(Request(id="the check", messages=tuple(messages), sampling=Sampling()))
        if rows and (beyond := [token for token in ids if token >= rows]):
            text = chat.tokenizer.decode(beyond[:1])
            raise ModelError(
                f"the chat template writes {text!r}, token {beyond[0]}, and the model has {rows} "
                "rows",
                where=str(folder),
                remedy="take the template and tokenizer that the model was trained with",
            )


def _read_generation(folder: Path, config: PreTrainedConfig | None) -> GenerationConfig:
    """The generation settings that the model would be loaded with. Raises ModelError."""
    file = folder / "generation_config.json"
    if not file.exists():
        if config is None:
            return GenerationConfig()
        return GenerationConfig.from_model_config(config)
    try:
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"transformers cannot read the generation settings: {error}",
            where=str(file),
            remedy="mend the file, or remove it",
        ) from error


def _look(folder: Path, weights: Mapping[str, Weight]) -> tuple[int, int]:
    """Look for what is no number. Raises ModelError where there is some."""
    name, looked = find_no_number(weights)
    whole = sum(weight.stop - weight.start for weight in weights.values())
    if name:
        raise ModelError(
            f"{name} holds NaN or infinity ({looked / 2**20:.1f} of {whole / 2**20:.1f} MiB of "
            "weights were looked at)",
            where=str(weights[name].file),
            remedy="take the model as it was before: a training that diverged, or a conversion to "
            "float16 of larger values, leaves such weights",
        )
    return looked, whole

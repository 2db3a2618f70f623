"""The child of factory.engines.importing: reads a GGUF file, checks it, writes a model folder."""

from __future__ import annotations

import json
import shutil
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from factory.codes.language import read_language
from factory.domain.disk import disk_remedy
from factory.domain.failures import DiskError, ModelError
from factory.domain.records import Message, Request, Sampling
from factory.engines.chat import Chat
from factory.engines.child import Channel, run_child
from factory.engines.importing import ImportedModel, WeightType
from factory.engines.loading import make_savable
from factory.engines.sharing import open_to_others
from factory.engines.turn import Turn, end_ids, read_turn, render
from factory.workspace.models import check_model_folder

PLAIN = (
    "The bridge had been closed since the flood, so they took the long way round the lake. It was "
    "late when the bus stopped in front of the station, and nobody was waiting there. She bought "
    "two cups of coffee and a newspaper from the day before, sat down by the window, and told him "
    "about the letter that her sister had sent from Canada in the spring of 1987."
)
"""What any language model of English finds likely."""
UNREADABLE = (
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError, OverflowError),
    *(struct.error, RuntimeError, OSError, ImportError),
)
"""What gguf and transformers raise at files that are cut, damaged or of an unknown kind."""


def import_file(file: Path, folder: Path, dtype: WeightType) -> ImportedModel:
    """Read, check and write aside, then rename. Raises ModelError and DiskError."""
    reader = _open(file)
    stored = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    tokenizer, model = _read(file, dtype)
    tokenizer = _without_inventions(tokenizer, len(reader.fields["tokenizer.ggml.tokens"].data))
    rows = _check_rows(tokenizer, model, file)
    turn, notes = _find_turn(tokenizer, model, _end_of_turn(reader), file)
    model.generation_config.eos_token_id = _one_or_more(turn.ends)
    make_savable(model, file)
    fluency = read_language(model, tokenizer, PLAIN)
    config = model.config.get_text_config()
    imported = ImportedModel(
        architecture=type(model).__name__,
        license=_text(reader, "general.license"),
        stored_as=tuple(name for name, _ in stored.most_common()),
        num_weights=sum(weight.numel() for weight in model.parameters()),
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        tied=bool(config.tie_word_embeddings),
        rows=rows,
        tokens=len(tokenizer),
        ends=tuple(tokenizer.decode([token]) for token in sorted(turn.ends)),
        perplexity=fluency.perplexity if fluency else float("nan"),
        notes=tuple(notes),
    )
    _write(model, tokenizer, folder)
    return imported


def _open(file: Path) -> GGUFReader:
    """The file's table of contents. Raises ModelError where it is cut or damaged."""
    try:
        return GGUFReader(file)
    except UNREADABLE as error:
        raise ModelError(
            f"the file is cut or damaged: {error}",
            where=str(file),
            remedy="compare its size with that of where it comes from, and copy it again",
        ) from error


def _read(file: Path, dtype: WeightType) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Both as transformers makes them of the file; the model plain, trainable and savable."""
    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where, local_files_only=True)
        model, loading = AutoModelForCausalLM.from_pretrained(
            **where,
            dtype=getattr(torch, dtype),
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            local_files_only=True,
        )
    except UNREADABLE as error:
        raise ModelError(
            f"transformers cannot read this file: {error}",
            where=str(file),
            remedy="take a text model of another architecture or quantisation, or its folder in "
            "Hugging Face format, which needs no import",
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            f"the file lacks {len(missing)} of the model's weights, such as {missing[0]}",
            where=str(file),
            remedy="take a file that holds the whole model: parts of a split one are to be merged",
        )
    return tokenizer, model.eval()


def _without_inventions(
    tokenizer: PreTrainedTokenizerBase, num_tokens: int
) -> PreTrainedTokenizerBase:
    """The tokenizer with the file's tokens alone: transformers adds GPT-2's `<|endoftext|>` to a
    byte-level one that lacks it, and the model has no row for that.
    """
    if len(tokenizer) <= num_tokens:
        return tokenizer
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [each for each in state["added_tokens"] if each["id"] < num_tokens]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        chat_template=tokenizer.chat_template,
        **tokenizer.special_tokens_map,
    )


def _check_rows(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, file: Path) -> int:
    """Rows of the table of embeddings. Raises ModelError where a token has none."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ModelError(
            f"the tokenizer has a token {highest}, the model only {rows} rows",
            where=str(file),
            remedy="take another conversion of this model",
        )
    return rows


def _find_turn(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, named: int | None, file: Path
) -> tuple[Turn, list[str]]:
    """How the chat template ends an answer, and what to tell of it.

    Many files name the token that ends a text where an answer ends with another one: such a model
    would never stop. The first special token that the template writes after an answer is the one.
    Raises ModelError without a template, or where nothing ends an answer.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            "the file has no chat template",
            where=str(file),
            remedy="take the file of an instruction-tuned model",
        )
    listed = end_ids(tokenizer.eos_token_id, model.generation_config.eos_token_id)
    ends = listed | end_ids(named, None)
    turn = read_turn(tokenizer, ends)
    if turn.fault is not None:
        added = tokenizer.added_tokens_decoder.items()
        turn = read_turn(tokenizer, ends | {token for token, each in added if each.special})
    if turn.fault is not None:
        if not ends:
            raise turn.fault
        return read_turn(tokenizer, ends), [f"it can be scored, not trained: {turn.fault.what}"]
    last = turn.closing_ids[-1]
    turn = read_turn(tokenizer, ends | {last})
    if last in listed:
        return turn, []
    text = tokenizer.decode([last])
    return turn, [f"the file does not end answers with {text}, its chat template does: added"]


def _end_of_turn(reader: GGUFReader) -> int | None:
    """The token that the file itself says ends a turn; few files do."""
    field = reader.get_field("tokenizer.ggml.eot_token_id")
    return None if field is None else int(field.contents())


def _text(reader: GGUFReader, key: str) -> str:
    field = reader.get_field(key)
    return "" if field is None else str(field.contents())


def _one_or_more(ids: Iterable[int]) -> int | list[int]:
    first, *others = sorted(ids)
    return [first, *others] if others else first


def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the folder aside, read it back as a round will, and rename it."""
    aside = folder.with_name(f".{folder.name}.importing")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        open_to_others(aside)
        _check_written(aside, tokenizer)
        aside.rename(folder)
    except (OSError, SafetensorError) as error:
        raise DiskError(
            f"the model cannot be written: {error}", where=str(folder), remedy=disk_remedy(error)
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check_written(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ModelError where the folder is not whole, or reads a chat as other tokens."""
    check_model_folder(folder)
    asked = (Message(role="user", content=PLAIN),)
    request = Request(id="probe", messages=asked, sampling=Sampling())
    text = render(tokenizer, [{"role": "user", "content": PLAIN}], answer_next=True)
    wanted = tokenizer.encode(text, add_special_tokens=False)
    if Chat(folder).encode(request)[: len(wanted)] != wanted:
        raise ModelError(
            "the tokenizer reads a chat as other tokens once it is saved",
            where=str(folder),
            remedy="take the model's own tokenizer files, in a folder in Hugging Face format",
        )


def main(channel: Channel, arguments: list[str]) -> None:
    """Import what the first message asks for."""
    job: dict[str, Any] | None = channel.receive()
    if job is not None:
        imported = import_file(Path(job["file"]), Path(job["folder"]), job["dtype"])
        channel.send({"type": "done", "imported": asdict(imported)})


if __name__ == "__main__":
    run_child(main)

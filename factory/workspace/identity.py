"""What a model is: everything in its folder and settings that decides an answer, part by part.

A checkpoint's id comes from its weights alone and stays. Its identity is that of all these parts:
scores, engines and trainings go by it, and where it has changed, the parts say what.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from factory.domain.bounded import read_text
from factory.domain.canon import canonical_json, digest
from factory.domain.failures import ModelError
from factory.workspace.models import fingerprint, is_installed
from factory.workspace.settings import EngineSection

FILES: Mapping[str, tuple[str, ...]] = {
    "tokenizer": (
        *("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "*.tiktoken"),
        *("special_tokens_map.json", "added_tokens.json"),
    ),
    "chat template": (
        *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
    ),
    "generation settings": ("generation_config.json",),
    "config": ("config.json",),
    "codes": ("codes/*",),
}
"""Parts of a folder besides the weights."""
TOKENIZER_CONFIG = "tokenizer_config.json"
"""Its `chat_template` belongs to the templates, all else to the tokenizer."""
SETTINGS = ("dtype", "backend", "max_model_len")
"""Parts that the folder does not have."""
_LENGTH = EngineSection().max_model_len
"""This length is not written down, so identities of versions that kept none stay."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A model as it is now. Example: identify(Path("rounds/seed"), engine=settings.engine)."""

    parts: Mapping[str, str]
    """A hash, or a word, of each."""
    changed: datetime
    """When a file of it was written last (UTC)."""

    @cached_property
    def sha(self) -> str:
        """One hash of all parts."""
        return digest(canonical_json(dict(self.parts)), 32)


def identify(folder: Path, weights: str = "", engine: EngineSection | None = None) -> Identity:
    """The model in a folder; `weights` is their fingerprint where that is known.

    Without `engine`, of the folder alone.
    """
    parts = {"weights": weights or fingerprint(folder), **_file_parts(folder)}
    if engine is not None:
        backend = engine.sampler
        if backend == "auto":
            backend = "vllm" if is_installed("vllm") else "transformers"
        parts |= {"dtype": engine.dtype, "backend": backend}
        if engine.max_model_len != _LENGTH:
            parts["max_model_len"] = str(engine.max_model_len)
    return Identity(parts=parts, changed=_last_change(folder))


def differing(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Names of the parts that two have and that differ, in their order."""
    return [name for name in after if name in before and before[name] != after[name]]


def _file_parts(folder: Path) -> dict[str, str]:
    """The hash of each part that has files."""
    hashes = {name: hashlib.sha256() for name in FILES}
    used: set[str] = set()
    for name, file in _files(folder):
        hashes[name].update(file.relative_to(folder).as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            hashes[name].update(hashlib.file_digest(stream, "sha256").digest())
        used.add(name)
    for name, content in _split_config(folder):
        hashes[name].update(content)
        used.add(name)
    return {name: total.hexdigest()[:32] for name, total in hashes.items() if name in used}


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for name, patterns in FILES.items():
        found = {file for pattern in patterns for file in folder.glob(pattern)}
        yield from ((name, file) for file in sorted(found) if file.is_file())


def _split_config(folder: Path) -> Iterator[tuple[str, bytes]]:
    """What tokenizer_config.json says of the tokenizer, and its chat template if it has one."""
    file = folder / TOKENIZER_CONFIG
    if not file.is_file():
        return
    text = read_text(file, error=ModelError)
    try:
        table = json.loads(text)
        template = table.pop("chat_template", None)
    except (ValueError, AttributeError, RecursionError):
        yield "tokenizer", text.encode()
        return
    yield "tokenizer", json.dumps(table, sort_keys=True).encode()
    if template is not None:
        yield "chat template", json.dumps(template, sort_keys=True).encode()


def _last_change(folder: Path) -> datetime:
    """By the system's own clock of changes, which copying a file with its times does not set."""
    weights = (*folder.glob("*.safetensors"), *folder.glob("*.bin"))
    files = [*weights, folder / TOKENIZER_CONFIG, *(file for _, file in _files(folder))]
    stats = [file.stat() for file in files if file.is_file()]
    latest = max((max(each.st_mtime, each.st_ctime) for each in stats), default=0.0)
    return datetime.fromtimestamp(latest, UTC)

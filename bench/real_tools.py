"""`python -m bench.real_tools`: codes for the different ones of 47,933 real tool documents.

The documents are the operations of botocore's service models and the methods of Google's cached
discovery documents. They are embedded once and coded by `residual` and `quantized`: seconds,
collisions before and after, moves and what they cost, use of the codes, quantisation error, and
whether operations of one service share their first number more often than random pairs do.

Embeddings come from `--model FOLDER` (mean states of a causal model), or without it from a
stand-in: TF-IDF of words and word pairs, hashed, reduced to 256 dimensions by a truncated SVD.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.table import Cell, peak_rss_mib, print_machine, print_table
from factory.codes.arrays import Floats
from factory.codes.base import Seen, Taken
from factory.codes.config import make_coder
from factory.codes.levels import LevelCoder, choose_shape
from factory.domain.canon import tool_id
from factory.domain.records import Tool
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import CodesSection, QuantizedSection

_TAG = re.compile(r"<[^>]+>")


class Operation(NamedTuple):
    """One tool document and the service it belongs to."""

    service: str
    tool: Tool


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--limit", type=int, default=0, help="tools, evenly spread; 0 is all")
    parser.add_argument("--model", type=Path, help="folder of a causal model that embeds")
    parser.add_argument("--epochs", type=int, default=40, help="of the autoencoder, at most")
    parser.add_argument("--coders", default="residual,quantized")
    arguments = parser.parse_args()
    print_machine("botocore", "google-api-python-client", "scikit-learn", "torch")
    operations = load_operations()
    if not operations:
        print("skipped: neither botocore nor google-api-python-client is installed")
        return
    if arguments.limit:
        kept = np.linspace(0, len(operations) - 1, min(arguments.limit, len(operations)))
        operations = [operations[int(row)] for row in kept]
    started = time.perf_counter()
    embeddings_ND = embed([each.tool for each in operations], arguments.model)
    source = str(arguments.model or "TF-IDF with SVD")
    print(
        f"{len(operations)} documents of {len({each.service for each in operations})} services, "
        f"embedded by {source} in {time.perf_counter() - started:.0f} s",
        flush=True,
    )
    columns = ("coder", "tools", "seconds", "cpu seconds", "levels x size", "collisions before")
    quality = ("entropy", "variance left", "same service", "random pairs", "ratio")
    for coder in arguments.coders.split(","):
        row = measure(coder, operations, embeddings_ND, arguments.epochs)
        print_table(f"{coder} codes", (*columns, "after", "moved", "penalty"), [row[:9]])
        print_table("entropy by even use, agreement of level 1 in pairs", quality, [row[9:]])
    print(f"peak memory {peak_rss_mib():.0f} MiB")


def measure(
    name: str, operations: list[Operation], embeddings_ND: Floats, epochs: int
) -> list[Cell]:
    """One row: a coder fitted on all tools, its codes resolved, and what they are like."""
    quantized = QuantizedSection(epochs=epochs)
    config = CodesSection(coder=name, quantized=quantized)
    embeddings_NVD = embeddings_ND[:, None]
    coder = make_coder(config, len(operations), 1)
    assert isinstance(coder, LevelCoder), f"{name} has no levels"
    started, worked = time.perf_counter(), time.process_time()
    documents = Seen(embeddings_NVD)
    coder.fit(documents)
    given = coder.assign(documents, Taken())
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    shape = choose_shape(len(operations), config.size)
    moved = np.array([how != "nearest" for how in given.resolved_by])
    codes_NP = np.array(given.codes)
    used = [np.bincount(column, minlength=shape.size) / len(codes_NP) for column in codes_NP.T]
    entropy = np.mean([-(share[share > 0] * np.log2(share[share > 0])).sum() for share in used])
    squares_N = coder.errors(embeddings_NVD, np.array(given.wanted, dtype=np.int32)) ** 2
    spread = float(coder.project(embeddings_NVD, 0).var(axis=0).sum())
    same, random = agreement([each.service for each in operations], codes_NP[:, 0])
    return [
        name,
        len(operations),
        seconds,
        cpu_seconds,
        f"{shape.levels} x {shape.size}",
        given.collisions,
        len(operations) - len(set(given.codes)),
        int(moved.sum()),
        float(given.penalty_N[moved].mean()) if moved.any() else 0.0,
        float(entropy / np.log2(shape.size)),
        float(squares_N.mean() / spread),
        same,
        random,
        same / random,
    ]


def agreement(services: list[str], first_N: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Share of pairs with one first number: of one service, and of any two tools (20,000 each)."""
    rng = np.random.default_rng(0)
    members: dict[str, list[int]] = {}
    for row, service in enumerate(services):
        members.setdefault(service, []).append(row)
    large = [rows for rows in members.values() if len(rows) > 1]
    weights = np.array([len(rows) for rows in large], dtype=float)
    drawn = rng.choice(len(large), 20_000, p=weights / weights.sum())
    same = [rng.choice(large[group], 2, replace=False) for group in drawn]
    some = rng.integers(0, len(services), (20_000, 2))
    return tuple(  # type: ignore[return-value]
        float((first_N[pairs[:, 0]] == first_N[pairs[:, 1]]).mean())
        for pairs in (np.array(same), some[some[:, 0] != some[:, 1]])
    )


def embed(tools: list[Tool], model: Path | None) -> Floats:
    """(N, D) embeddings of the documents, as the prompt `codes/encode` puts them."""
    prompts = Prompts.load(Workspace(shipped_root()))
    texts = [prompts.render("codes/encode", tool=tool.document) for tool in tools]
    if model is not None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from factory.codes.vocabulary import embed_documents

        loaded = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
        return embed_documents(loaded, AutoTokenizer.from_pretrained(model), texts)
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    split = [re.sub(r"(?<=[a-z])(?=[A-Z])|[_.]", " ", text) for text in texts]
    counts = HashingVectorizer(n_features=2**14, ngram_range=(1, 2), norm=None).transform(split)
    space = TruncatedSVD(256, random_state=0, n_iter=2)
    found: Floats = space.fit_transform(TfidfTransformer().fit_transform(abs(counts)))
    return found.astype(np.float32)


def load_operations() -> list[Operation]:
    """The documents of the installed packages, each once, sorted by service and name."""
    found: dict[str, Operation] = {}
    documents = load_documents()
    for service, document in documents:
        identity = tool_id(document)
        found.setdefault(identity, Operation(service, Tool(id=identity, document=document)))
    print(f"{len(documents)} documents, {len(found)} of them different", flush=True)
    return sorted(found.values(), key=lambda each: (each.service, each.tool.name, each.tool.id))


def load_documents() -> list[tuple[str, dict[str, Any]]]:
    """Service and document of every operation; empty where neither package is installed."""
    return [*_botocore(), *_google()]


def _botocore() -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import botocore
    except ImportError:
        return
    for folder in sorted((Path(botocore.__file__).parent / "data").iterdir()):
        models = sorted(folder.glob("*/service-2.json*"))
        if not models:
            continue
        raw = models[-1].read_bytes()
        model = json.loads(gzip.decompress(raw) if models[-1].suffix == ".gz" else raw)
        shapes = model["shapes"]
        for name, operation in model["operations"].items():
            shape = shapes.get(operation.get("input", {}).get("shape", ""), {})
            properties = {
                key: _property(
                    shapes[member["shape"]].get("type", "string"), member.get("documentation")
                )
                for key, member in shape.get("members", {}).items()
            }
            text = operation.get("documentation", "")
            yield f"aws/{folder.name}", _document(name, text, properties, shape.get("required", []))


def _google() -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import googleapiclient
    except ImportError:
        return
    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text("utf-8"))
        for method in _methods(content):
            parameters = method.get("parameters", {})
            properties = {
                key: _property(value.get("type", "string"), value.get("description"))
                for key, value in parameters.items()
            }
            required = [key for key, value in parameters.items() if value.get("required")]
            text = method.get("description", "")
            name = str(method.get("id", path.stem))
            yield f"google/{content.get('name')}", _document(name, text, properties, required)


def _methods(resource: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from resource.get("methods", {}).values()
    for child in resource.get("resources", {}).values():
        yield from _methods(child)


_TYPES = {
    "structure": "dict",
    "object": "dict",
    "map": "dict",
    "list": "array",
    "long": "integer",
    "double": "float",
    "number": "float",
    "timestamp": "string",
    "blob": "string",
}


def _property(kind: str, text: str | None) -> dict[str, Any]:
    return {"type": _TYPES.get(kind, kind), "description": _plain(text or "")}


def _document(
    name: str, text: str, properties: dict[str, Any], required: list[str]
) -> dict[str, Any]:
    return {
        "name": name,
        "description": _plain(text),
        "arguments": {"type": "dict", "properties": properties, "required": sorted(required)},
        "results": {"type": "dict", "properties": {}},
    }


def _plain(text: str) -> str:
    """Without markup, on one line, the first 300 characters."""
    return " ".join(_TAG.sub(" ", text).split())[:300]


if __name__ == "__main__":
    main()

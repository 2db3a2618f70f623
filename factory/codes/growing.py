"""Codes of new tools: a first codebook, more tools in one, and what becomes of it in training.

The order of insertion is that of the arguments (A38), so the same tools get the same codes on
repetition, in one call or in several.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from factory.codes.arrays import Code, Floats, as_NVD
from factory.codes.base import Assignment, Coder, OnProgress, Seen, Taken, silent
from factory.codes.codebook import Codebook, Fresh, Report, ToolCode
from factory.codes.config import make_coder, uses_pairs
from factory.codes.graph import Graph, build_graph
from factory.domain.failures import InputError
from factory.domain.records import Pair, Tool
from factory.workspace.recipe import CodesSection

OUTLIER_PERCENTILE = 99.0
"""A new tool farther out than this share of the known ones is marked (A38)."""


def order_of(tools: Iterable[Tool]) -> dict[str, int]:
    """The row of each tool by its id; of equal tools, that of the first."""
    rows: dict[str, int] = {}
    for row, tool in enumerate(tools):
        rows.setdefault(tool.id, row)
    return rows


def fit_codebook(
    tools: Sequence[Tool],
    embeddings: Floats | None,
    codes: CodesSection | None = None,
    *,
    seed: int = 0,
    version: int = 1,
    pairs: Sequence[Pair] = (),
    on_progress: OnProgress = silent,
) -> Codebook:
    """A codebook of these tools, each with a code of its own.

    Args:
        tools: at least 2; of equal ids the first is kept (A25(1)).
        embeddings: (N, D) or (N, V, D) of them; None where the coder reads no documents.
        codes: which ones; by default those of a recipe without [codes].
        seed: of everything random.
        version: of the codebook.
        pairs: tools that are called together; only `quantized` looks at them.
        on_progress: hears of the epochs of a coder that learns in epochs.

    Raises:
        InputError: more tools, with Finish, than codes, or more positions than letters.
    """
    codes = codes or CodesSection()
    rows = list(order_of(tools).values())
    if embeddings is not None:
        embeddings = see(tools, embeddings).embeddings_NVD[rows]
    tools = [tools[row] for row in rows]
    if len(tools) < 2:
        raise ValueError(f"{len(tools)} tools are too few for a codebook")
    graph = build_graph(pairs, tools) if uses_pairs(codes) else None
    documents = see(tools, embeddings, graph, seed)
    coder = make_coder(codes, len(tools), documents.embeddings_NVD.shape[1], on_progress)
    _refuse_without(embeddings, coder)
    coder.fit(documents)
    taken = Taken()
    given = coder.assign(documents, taken)
    finish = coder.reserve(taken)
    moved_N = np.array([how != "nearest" for how in given.resolved_by])
    report = Report(
        collisions_before=given.collisions,
        moved=given.moved,
        penalty=float(given.penalty_N[moved_N].mean()) if moved_N.any() else 0.0,
        usage_entropy=_usage_entropy(coder, given.codes),
        outlier_error=_outlier_error(given.error_N),
        reencoded=float(1 - moved_N.mean()),
        fitted=len(tools),
        pairs=None if graph is None else len(graph),
    )
    return Codebook(
        tools=tuple(_entries(tools, given, outlier_error=float("inf"))),
        coder=coder,
        report=report,
        finish=finish,
        version=version,
        embedder=codes.embedder,
        views=codes.gist.views,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """A codebook with more tools. Example: add_tools(codebook, tools, embeddings).added."""

    codebook: Codebook
    added: tuple[ToolCode, ...]
    """The tools that came in."""
    fresh: Fresh = ()
    full: InputError | None = None
    """Why the other tools have no code until all are made anew; None where every tool has one."""


def add_tools(codebook: Codebook, tools: Sequence[Tool], embeddings: Floats | None = None) -> Grown:
    """Give new tools codes without fitting again (A38), one after the other.

    Tools that have a code keep it.

    Args:
        codebook: stays as it is.
        tools: N tools.
        embeddings: (N, D) or (N, V, D), from the model that the coder was last refreshed for;
            None where the coder reads no documents.

    Raises:
        InputError: the embeddings are of another width than those that the coder was fitted on.
    """
    coder = copy.copy(codebook.coder)
    _refuse_without(embeddings, coder)
    seen = see(tools, embeddings)
    _refuse_other_width(seen, coder)
    taken, full = Taken(codebook.taken()), None
    added: list[ToolCode] = []
    for tool_id, row in order_of(tools).items():
        if tool_id in codebook:
            continue
        try:
            given = coder.assign(seen.only(row), taken)
        except InputError as error:  # full for this tool is full for all after it
            full = error
            break
        added += _entries([tools[row]], given, outlier_error=codebook.report.outlier_error)
    everyone = (*codebook.tools, *added)
    report = replace(
        codebook.report,
        moved=sum(entry.resolved_by != "nearest" for entry in everyone),
        usage_entropy=_usage_entropy(coder, [entry.code for entry in everyone]),
    )
    more = coder.sizes[:1] > codebook.coder.sizes[:1]
    return Grown(
        codebook=changed(codebook, tools=everyone, coder=coder, report=report),
        added=tuple(added),
        fresh=({entry.code[0] for entry in added},) if more else (),
        full=full,
    )


def refresh(codebook: Codebook, embeddings: Floats | None, *, seed: int = 0) -> Codebook:
    """The codebook in the space that the model has after training; every tool keeps its code.

    Args:
        codebook: stays as it is.
        embeddings: (N, D) or (N, V, D) of its tools, in that order; None where training does not
            move them.
        seed: of what learns anew.
    """
    report = replace(codebook.report, age=codebook.report.age + 1)
    if embeddings is None:
        return changed(codebook, report=report)
    if len(embeddings) != len(codebook):
        raise ValueError(f"{len(codebook)} tools, {len(embeddings)} embeddings")
    coder = copy.copy(codebook.coder)
    documents = Seen(as_NVD(embeddings), seed=seed)
    coder.refresh(documents, codebook.codes)
    nearest_N = coder.nearest(documents, codebook.codes)
    known = np.array([not entry.ood for entry in codebook.tools])
    report = replace(
        report,
        reencoded=float(nearest_N.mean()),
        outlier_error=_outlier_error(coder.first_errors(documents)[known]),
    )
    return changed(codebook, coder=coder, report=report)


def changed(codebook: Codebook, **values: object) -> Codebook:
    """A codebook with other values, without the files that one before may have."""
    names = ("tools", "coder", "report", "finish", "version", "embedder", "views")
    return Codebook(**{name: getattr(codebook, name) for name in names} | values)


def unexplained(codebook: Codebook, embeddings: Floats) -> float | None:
    """Share of the documents' variance that whole codes leave; None where none is explained.

    `embeddings` are those of its tools, in that order.
    """
    return codebook.coder.unexplained(Seen(as_NVD(embeddings)), codebook.codes)


def see(
    tools: Sequence[Tool], embeddings: Floats | None, graph: Graph | None = None, seed: int = 0
) -> Seen:
    """What a coder sees of tools; `embeddings` are theirs, None where it reads no documents."""
    embeddings_NVD = as_NVD(np.zeros((len(tools), 1, 0)) if embeddings is None else embeddings)
    if len(embeddings_NVD) != len(tools):
        raise ValueError(f"{len(tools)} tools, {len(embeddings_NVD)} embeddings")
    return Seen(embeddings_NVD, [_code_name(tool) for tool in tools], graph, seed)


def _code_name(tool: Tool) -> str:
    """`compress for Imagon`: an API of a service is told apart from another's (§3.2)."""
    service = tool.document.get("tool_name")
    return f"{tool.name} for {service}" if service else tool.name


def _refuse_without(embeddings: Floats | None, coder: Coder) -> None:
    if coder.reads_documents and embeddings is None:
        raise ValueError(f"the coder {coder.name} needs embeddings of the documents")


def _refuse_other_width(seen: Seen, coder: Coder) -> None:
    width = seen.embeddings_NVD[0].size if len(seen) else coder.width
    if coder.width is not None and width != coder.width:
        raise InputError(
            f"the codes were fitted on embeddings of {coder.width} numbers, these have {width}",
            where="codes.embedder",
            remedy="name the embedder that the codes were fitted with, or fit them anew: "
            "`factory codes fit --out FOLDER` from a model without codes",
        )


def _entries(tools: Sequence[Tool], given: Assignment, *, outlier_error: float) -> list[ToolCode]:
    rows = zip(tools, given.codes, given.resolved_by, given.error_N, strict=True)
    return [
        ToolCode(
            tool=tool,
            code=code,
            resolved_by=how,
            error=float(error),
            ood=bool(error > outlier_error),
        )
        for tool, code, how, error in rows
    ]


def _outlier_error(error_N: Floats) -> float:
    return float(np.percentile(error_N, OUTLIER_PERCENTILE)) if len(error_N) else 0.0


def _usage_entropy(coder: Coder, codes: Sequence[Code]) -> tuple[float, ...]:
    """Bits of each position's use, among the codes that reach it; none for names."""
    entropies = []
    for position, size in enumerate(coder.sizes):
        numbers = [code[position] for code in codes if position < len(code)]
        share_K = np.bincount(numbers, minlength=size) / max(1, len(numbers))
        used = share_K[share_K > 0]
        entropies.append(float(-(used * np.log2(used)).sum()) + 0.0)
    return tuple(entropies)

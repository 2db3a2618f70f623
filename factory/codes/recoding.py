"""All codes made anew (A41): when, and so that a token goes on meaning what a model has learnt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from factory.codes.arrays import Code, Floats
from factory.codes.base import ResolvedBy, Taken
from factory.codes.codebook import Codebook, Fresh, ToolCode
from factory.codes.growing import changed, fit_codebook, order_of, see
from factory.domain.records import CodeAlias, Pair, Tool
from factory.workspace.recipe import CodesSection

RECODE_NEW, RECODE_MOVED, RECODE_OUTLIERS = 0.10, 0.05, 0.02
"""Shares of tools that came after the fit, that came off their nearest code since, and that are far
out, above which codes that may be made anew are made anew (A41)."""


def why_recode(codebook: Codebook, codes: CodesSection, num_new: int = 0) -> str:
    """Why all tools should get codes anew before `num_new` come in; empty: no reason (A41)."""
    made = _describe_codes(codebook.coder.name, codebook.embedder, codebook.views)
    wanted = _describe_codes(codes.coder, codes.embedder, codes.gist.views)
    if made != wanted:
        return f"these are {made}, the recipe has {wanted}"
    if not codes.recode_every or not codebook.coder.reads_documents:
        return ""
    report, num_tools = codebook.report, len(codebook)
    new = (num_tools - (report.fitted or num_tools) + num_new) / (num_tools + num_new)
    if report.age >= codes.recode_every:
        return f"the codes are {report.age} trainings old"
    if new >= RECODE_NEW:
        return f"{new:.0%} of the tools came after the fit"
    later = codebook.tools[report.fitted or num_tools :]
    moved = sum(entry.resolved_by != "nearest" for entry in later)
    if moved > RECODE_MOVED * num_tools:
        return f"{moved / num_tools:.0%} of the tools came later and are off their nearest code"
    if len(codebook.outliers) > RECODE_OUTLIERS * num_tools:
        return f"{len(codebook.outliers) / num_tools:.0%} of the tools are far from all codes"
    return ""


def _describe_codes(coder: str, embedder: str, views: int) -> str:
    over = embedder or (f"{views} gist states" if views else "")
    return f"{coder} codes" + (f" over {over}" if over else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recoding:
    """What making codes anew changed. Example: see recode."""

    codebook: Codebook
    fresh: Fresh | None
    """None is all."""
    reason: str
    """Why it was made."""
    kept_names: float
    """Share of the old code tokens that stand for a new code, and keep their rows."""
    aliases: tuple[CodeAlias, ...]
    """Old and new tokens of each position that share tools; none where codes are no tokens."""
    changed: tuple[Tool, ...]
    """The old codebook's tools whose code reads differently now."""
    churn: float
    """Their share."""

    def figures(self) -> dict[str, Any]:
        """All but the tools and their tokens, for the ledger."""
        return {"reason": self.reason, "kept_names": self.kept_names, "churn": self.churn}


def recode(
    old: Codebook,
    tools: Sequence[Tool],
    embeddings: Floats | None,
    codes: CodesSection,
    *,
    reason: str = "",
    seed: int = 0,
    version: int = 1,
    pairs: Sequence[Pair] = (),
) -> Recoding:
    """Give all tools of a codebook, and `tools` after them, codes anew (A41).

    New numbers take the name of the old number of their position with which they share most tools
    (a matching of greatest total, level by level; of equal totals the one of least distance), so
    that a token goes on meaning what a model has learnt of it. Numbers without such an old one take
    the names left over, lowest first, and get new rows when the codebook is installed.

    Args:
        old: the codebook to replace; it stays as it is.
        tools: new tools, in order of insertion.
        embeddings: of the old codebook's tools and then of `tools`, as fit_codebook takes them.
        codes: which ones.
        reason: kept in the result.
        seed: of everything random.
        version: of the new codebook.
        pairs: tools that are called together.
    """
    everyone = [*(entry.tool for entry in old.tools), *tools]
    codebook = fit_codebook(everyone, embeddings, codes, seed=seed, version=version, pairs=pairs)
    rows = list(order_of(everyone).values())
    documents = None if embeddings is None else embeddings[rows]
    codebook, fresh, kept = _take_names(codebook, old, documents)
    codebook = _take_finish(codebook, old, documents)
    moved = tuple(
        entry.tool
        for entry in old.tools
        if codebook.code_text(entry.tool.id) != old.text_of(entry.code)
    )
    return Recoding(
        codebook=codebook,
        fresh=fresh,
        reason=reason,
        kept_names=kept,
        aliases=aliases_of(old, codebook),
        changed=moved,
        churn=len(moved) / len(old),
    )


def _take_names(
    codebook: Codebook, old: Codebook, embeddings: Floats | None
) -> tuple[Codebook, Fresh | None, float]:
    """Number the codes as in an older codebook where they mean the same.

    Returns:
        The codebook, the numbers that want rows (None is all), and the share of the old tokens that
        stand for a new code.
    """
    known = {row: old.code_of(id_) for row, id_ in enumerate(codebook.tool_ids) if id_ in old}
    seen = see([entry.tool for entry in codebook.tools], embeddings)
    renaming = None
    if old.coder.proposes:
        renaming = codebook.coder.take_names(seen, codebook.codes, known)
    if renaming is None:
        return codebook, None, 0.0
    names_PK, kept_PK = renaming

    def rename(code: Code) -> Code:
        return tuple(int(names_PK[position][number]) for position, number in enumerate(code))

    renamed = changed(
        codebook,
        tools=tuple(replace(entry, code=rename(entry.code)) for entry in codebook.tools),
        finish=None if codebook.finish is None else rename(codebook.finish),
    )
    fresh = tuple(
        set(names_K[~kept_K].tolist()) for names_K, kept_K in zip(names_PK, kept_PK, strict=True)
    )
    return renamed, fresh, sum(int(kept_K.sum()) for kept_K in kept_PK) / sum(old.coder.sizes)


def _take_finish(codebook: Codebook, old: Codebook, embeddings: Floats | None) -> Codebook:
    """Let Finish keep an older codebook's code; a tool that has it now gets another one.

    Where codes have another shape, Finish has another code.
    """
    wanted, coder = old.finish, codebook.coder
    if wanted is None or coder.layout != old.coder.layout:
        return codebook
    if codebook.tokens and len(wanted) != len(coder.sizes):
        return codebook
    if any(number >= size for number, size in zip(wanted, coder.sizes, strict=False)):
        return codebook
    tools: list[ToolCode] = list(codebook.tools)
    if wanted in codebook.codes:
        row = codebook.codes.index(wanted)
        seen = see([entry.tool for entry in tools], embeddings).only(row)
        taken = Taken([wanted, *(code for code in codebook.codes if code != wanted)])
        given = coder.assign(seen, taken)
        how: ResolvedBy = "sibling" if given.codes[0][:-1] == wanted[:-1] else "prefix"
        tools[row] = replace(tools[row], code=given.codes[0], resolved_by=how)
    return changed(codebook, tools=tuple(tools), finish=wanted)


def aliases_of(old: Codebook, new: Codebook) -> tuple[CodeAlias, ...]:
    """Which tokens tools have now that had another, or the same, position by position."""
    if not (old.tokens and new.tokens):
        return ()
    counts = Counter(
        (position, *numbers)
        for entry in old.tools
        for position, numbers in enumerate(
            zip(entry.code, new.code_of(entry.tool.id), strict=False)
        )
    )
    return tuple(
        CodeAlias(old_token=old.tokens[p][then], new_token=new.tokens[p][now], overlap=count)
        for (p, then, now), count in sorted(counts.items())
    )

"""The papers' systems and their ablations as values of recipe keys, and sweeps over any key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from factory.codes.config import CODERS
from factory.domain.failures import InputError, RecipeError
from factory.workspace.recipe import (
    CodesSection,
    Recipe,
    StageSection,
    TrainSection,
    parse_value,
    with_values,
)

GIST_VIEWS = 2
"""Gist states of a document, where the recipe has none (SGTC)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to make and learn codes. Example: Variant(name="residual", codes=CodesSection())."""

    name: str
    codes: CodesSection
    train: TrainSection = field(default_factory=TrainSection)
    stages: tuple[StageSection, ...] = ()
    trainings: int = 1
    """They share the epochs, so that a variant with several costs what one with one training does;
    codes are made anew before each but the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What a variant sets in the recipe. Example: Arm(sets={"codes.coder": "atomic"})."""

    sets: Mapping[str, object]
    """Values by key."""
    gist: bool = False
    """Whether documents are compressed: by the model itself, whatever embedder is named."""
    trainings: int = 1


_RESIDUAL = {"codes.coder": "residual"}
_QUANTIZED = {"codes.coder": "quantized"}
_SGTC = {**_RESIDUAL, "codes.gist.merge": True, "codes.iterations": 2}
_TOOLWEAVER = {
    **_QUANTIZED,
    "codes.quantized.graph": 1.0,
    "codes.quantized.graph_unit": "absolute",
    "codes.quantized.sinkhorn": "all",
    "codes.quantized.index": "sinkhorn",
    "codes.quantized.kept": "collisions",
}
_TOOLGEN_STAGES = [
    {"name": "memorise", "kinds": ["code"]},
    {"name": "retrieve", "kinds": ["retrieve"]},
]
_ROWS_FIRST = [
    {"name": "rows", "kinds": ["code", "retrieve"], "rows_only": True, "epochs": 0.25},
    {"name": "all", "kinds": ["code", "retrieve"]},
]
ARMS: Mapping[str, Arm] = {
    **{
        name: Arm(sets={"codes.coder": name})
        for name in ("atomic", "numeric", "hierarchical", "semantic")
    },
    "residual": Arm(sets=_RESIDUAL),
    "residual, gist": Arm(sets=_RESIDUAL, gist=True),
    "residual, post-guided": Arm(sets=_RESIDUAL, trainings=2),
    "residual, post-guided body": Arm(
        sets={**_RESIDUAL, "codes.post_guided": "body", "codes.recode_every": 1},
        gist=True,
        trainings=2,
    ),
    "residual, random rows": Arm(sets={**_RESIDUAL, "codes.reframe": False}),
    "quantized": Arm(sets=_QUANTIZED),
    "quantized, no graph": Arm(sets={**_QUANTIZED, "codes.quantized.graph": 0.0}),
    "sgtc": Arm(sets=_SGTC, gist=True),
    "sgtc, random rows": Arm(sets={**_SGTC, "codes.reframe": False}, gist=True),
    "sgtc, one iteration": Arm(sets={**_SGTC, "codes.iterations": 1}, gist=True),
    "sgtc, without merge": Arm(sets={**_SGTC, "codes.gist.merge": False}, gist=True),
    "toolweaver": Arm(sets=_TOOLWEAVER),
    "toolweaver, no graph": Arm(sets={**_TOOLWEAVER, "codes.quantized.graph": 0.0}),
    "toolweaver, no Sinkhorn": Arm(
        sets={**_TOOLWEAVER, "codes.quantized.sinkhorn": "off", "codes.quantized.index": "exact"}
    ),
    "toolgen": Arm(sets={"codes.coder": "atomic", "stage": _TOOLGEN_STAGES}),
    "atomic, rows first": Arm(sets={"codes.coder": "atomic", "stage": _ROWS_FIRST}),
    "residual, rows first": Arm(sets={**_RESIDUAL, "stage": _ROWS_FIRST}),
}
"""By name. SGTC is compression to its early stop, merged into the one backbone, rows made of the
tools' own states, and two whole iterations (Table 9, App. C); `residual` is its clustering alone.
`rows first` moves the new rows alone for a quarter of an epoch more, the model frozen.
ToolWeaver is its published losses and mapping, in the recipe's sizes and budget. ToolGen learns
documents, then requests; its third stage, trajectories, has no data here."""


def standard_variants(recipe: Recipe) -> dict[str, Variant]:
    """ARMS by name, in the sizes and with the training of a recipe. Raises RecipeError."""
    return {name: _make(recipe, name, arm, {}) for name, arm in ARMS.items()}


def choose_variants(
    recipe: Recipe, only: Sequence[str] = (), sweeps: Mapping[str, Sequence[object]] | None = None
) -> list[Variant]:
    """The named variants, all by default, each with every combination of the swept values.

    A key that means nothing to a variant, such as codes.quantized.beta to an atomic code, does not
    multiply it.

    Raises InputError for an unknown name and a sweep that changes nothing, RecipeError for a key or
    value that no recipe may have.
    """
    sweeps = sweeps or {}
    plain = standard_variants(recipe)
    for name in only:
        if name not in plain:
            raise InputError(f"no variant {name!r}", remedy=f"the variants are {'; '.join(plain)}")
    chosen = [plain[name] for name in only or plain]
    for key in sweeps:
        if not any(_matters(key, variant) for variant in chosen):
            raise InputError(
                f"{key} changes none of {'; '.join(v.name for v in chosen)}",
                where=f"--sweep {key}",
                remedy="name variants that it matters to: --only",
            )
    return [each for variant in chosen for each in _sweep(recipe, variant, sweeps)]


def parse_sweeps(pairs: Sequence[str]) -> dict[str, list[object]]:
    """`key=a,b,c` by key: TOML values, or bare words. Raises RecipeError."""
    sweeps: dict[str, list[object]] = {}
    for pair in pairs:
        key, separator, text = (part.strip() for part in pair.partition("="))
        if not separator or not text:
            raise RecipeError(
                f"--sweep {pair} has no values", remedy="write it as --sweep train.epochs=1,2,4"
            )
        try:
            sweeps[key] = tomllib.loads(f"values = [{text}]")["values"]
        except (tomllib.TOMLDecodeError, RecursionError):
            sweeps[key] = [parse_value(key, part.strip()) for part in text.split(",")]
    return sweeps


def _make(recipe: Recipe, name: str, arm: Arm, more: Mapping[str, object]) -> Variant:
    own: dict[str, object] = {
        "codes.post_guided": "appendix",
        "codes.gist.views": 0,
        "codes.iterations": 1,
        "codes.gist.merge": False,
    }
    if arm.gist:
        own |= {"codes.embedder": "", "codes.gist.views": recipe.codes.gist.views or GIST_VIEWS}
    made = with_values(recipe, {**own, **arm.sets, **more}, f"the variant {name}")
    return Variant(
        name=name,
        codes=made.codes,
        train=made.train,
        stages=made.stage,
        trainings=arm.trainings,
    )


def _sweep(
    recipe: Recipe, variant: Variant, sweeps: Mapping[str, Sequence[object]]
) -> Iterator[Variant]:
    keys = [key for key in sweeps if _matters(key, variant)]
    seen = set[str]()
    for values in product(*(sweeps[key] for key in keys)):
        more = dict(zip(keys, values, strict=True))
        if more.get("codes.reframe") is False:
            more.pop("codes.rows", None)
        told = [f"{_shorten(key, keys)}={value}" for key, value in more.items()]
        name = ", ".join((variant.name, *told))
        if name in seen:
            continue
        seen.add(name)
        yield _make(recipe, name, ARMS[variant.name], more)


def _shorten(key: str, keys: Sequence[str]) -> str:
    """The last part of a key, where no other key ends in it."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def _matters(key: str, variant: Variant) -> bool:
    """Whether a variant can depend on a key."""
    codes, gist = variant.codes, bool(variant.codes.gist.views)
    if key.startswith("codes.quantized."):
        return codes.coder == "quantized"
    if key.startswith("codes.gist.") or key == "codes.post_guided":
        return gist
    coders = {
        "codes.size": {"residual", "quantized"},
        "codes.levels": {"residual", "quantized"},
        "codes.dims": {"residual", "hierarchical"},
        "codes.branches": {"hierarchical"},
        "codes.digits": {"numeric"},
    }
    if key in ("codes.reframe", "codes.rows"):
        makes_tokens = CODERS[codes.coder].layout == "tokens"
        return makes_tokens and (codes.reframe or key == "codes.reframe")
    if key == "codes.embedder":
        return CODERS[codes.coder].reads_documents and not gist
    return codes.coder in coders.get(key, {codes.coder})

"""A plan of variants: plans/NAME.toml, or a file of one's own, typed, checked and settled.

A variant is a set of recipe keys and what is done with them from one parent: a lesson, rounds, or
nothing. What all variants have in common is said once, at the top of the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from factory.domain.failures import ContentError, InputError
from factory.judge.rulebook import Rulebook
from factory.lab.home.abstain import LACKS, quiet_items
from factory.lab.home.files import write_items, write_quiet_items
from factory.lab.home.world import CATEGORIES, other_home_items
from factory.score.base import Scorable
from factory.score.loading import load
from factory.workspace.checking import check_table, read_toml
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.models import check_model_folder
from factory.workspace.recipe import (
    Recipe,
    RuleSetting,
    Section,
    flatten,
    load_recipe,
    parse_value,
    vary,
    with_values,
)
from factory.workspace.settings import Settings

PARENT = "parent"
"""Name of the row of what every variant starts from."""
REQUESTS = "requests"
"""`text` that stands for the requests of the benchmarks."""
PATHS = frozenset(
    {"data", "corpus", "embedder", "embedders", "judge", "retriever", "reference", "cache"}
)
"""Keys of definitions that may hold a path relative to the workspace."""
HOME_TOML = """title = "Home world, {items} more requests {what}of its generator's seed {seed}"
split = "test"
held_out = true
questions = "{name}"
prefix = "home_"
categories = {categories}
"""


class AblationBenchmark(BaseModel):
    """[[benchmark]]: a benchmark of eval/, other keys changed in it; or a set of the home world."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(min_length=1)
    """Of eval/NAME.toml."""
    home: int = Field(0, ge=0)
    """Items a category of the home world, drawn for this plan under that name."""
    abstain: int = Field(0, ge=0)
    """The same, of its requests that call for no call. Neither: the benchmark is there."""
    seed: int = 0
    """Of the draw."""

    @model_validator(mode="after")
    def _check_draw(self) -> AblationBenchmark:
        if self.home and self.abstain:
            raise ValueError("home and abstain are two benchmarks, each with a name of its own")
        return self

    @property
    def is_drawn(self) -> bool:
        """Whether its items are made for the plan."""
        return bool(self.home or self.abstain)

    @property
    def changes(self) -> dict[str, Any]:
        """Keys of the definition with other values."""
        return dict(self.model_extra or {})


class AblationVariant(Section):
    """[[variant]]: what differs, and what is done."""

    name: str = Field(min_length=1)
    model: str = ""
    """Folder of the parent; empty is the plan's."""
    recipe: str = ""
    """Empty is the plan's."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values by recipe key, `[[variant.set.stage]]` among them."""
    rules: dict[str, RuleSetting] = Field(default_factory=dict)
    """Rule id, or a pattern of ids such as `call/*`, to off, warn or reject."""
    teach: tuple[str, ...] | None = None
    """Files of a lesson before the rounds; none is the plan's."""
    rounds: int | None = Field(None, ge=0)
    """None is the plan's."""
    gold: bool = False
    """Each round is a lesson of the same requests with right labels: the home world's alone."""
    published: tuple[str, ...] = ()
    """The rows of the published tables that it stands beside."""


class AblationPlan(Section):
    """A plan. Example: load_plan(workspace, "learning")."""

    title: str = Field(min_length=1)
    recipe: str = ""
    """Empty is factory.toml's."""
    model: str = ""
    """Folder of the parent; empty is factory.toml's."""
    models: dict[str, str] = Field(default_factory=dict)
    """Several parents by name: each variant starts from each."""
    requests: tuple[str, ...] = ()
    """Files of the rounds' requests; none are factory.toml's, else the home world's."""
    field: str = ""
    """Key of the request in them, where it is none of the usual names."""
    text: str = ""
    """Plain text whose perplexity is measured: a file, or `requests`, those of the benchmarks."""
    seeds: int = Field(1, ge=1)
    """Trials of each variant."""
    against: str = PARENT
    """The variant from which changes are shown, besides the parent."""
    published: tuple[str, ...] = ()
    """Titles of the published tables to show."""
    teach: tuple[str, ...] = ()
    rounds: int = Field(0, ge=0)
    set: dict[str, Any] = Field(default_factory=dict)
    rules: dict[str, RuleSetting] = Field(default_factory=dict)
    benchmark: tuple[AblationBenchmark, ...] = ()
    variant: tuple[AblationVariant, ...] = ()

    @model_validator(mode="after")
    def _something_is_compared(self) -> AblationPlan:
        if not self.variant:
            raise ValueError("a plan without variants: write [[variant]] tables, each with a name")
        if not self.benchmark:
            raise ValueError("nothing is scored: write [[benchmark]] tables, each with a name")
        names = [variant.name for variant in self.variant]
        if repeated := next((name for name in names if names.count(name) > 1), ""):
            raise ValueError(f"two variants are called {repeated!r}")
        if PARENT in names:
            raise ValueError(f"{PARENT!r} is the row of what every variant starts from")
        return self


def load_plan(workspace: Workspace, name: str) -> AblationPlan:
    """The plan of a file, else plans/NAME.toml of the workspace or shipped.

    Raises InputError where there is none, ContentError with the first fault of a plan.
    """
    file = Path(name).expanduser()
    if not file.is_file():
        known = [path.removeprefix("plans/") for path, _ in workspace.walk("plans", ".toml")]
        if f"{name.removesuffix('.toml')}.toml" not in known:
            raise InputError(
                f"there is no plan {name}: no such file, and none of plans/",
                where=str(workspace.root),
                remedy=f"the plans are {', '.join(path.removesuffix('.toml') for path in known)}",
            )
        file = workspace.find(f"plans/{name.removesuffix('.toml')}.toml")
    table = read_toml(file)
    return check_table(AblationPlan, table, str(file))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A variant with everything that it is made of."""

    name: str
    model: str
    """Folder: absolute, or the shipped one by its name."""
    recipe: Recipe
    """It scores nothing: the plan's benchmarks are scored after each step."""
    rules: Mapping[str, RuleSetting]
    """By rule id."""
    teach: tuple[Path, ...] = ()
    rounds: int = 0
    gold: bool = False
    published: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[str, ...]:
        """What is done, one after the other."""
        lesson = ("lesson",) if self.teach else ()
        return (*lesson, *(f"round {number}" for number in range(1, self.rounds + 1)))

    @property
    def does(self) -> str:
        """The same for people."""
        files = ", ".join(path.name for path in self.teach)
        kind = "lessons of right labels" if self.gold else "rounds"
        parts = [
            f"lesson of {files}" if self.teach else "",
            f"{self.rounds} {kind} of {self.recipe.num_queries}" if self.rounds else "",
        ]
        return ", then ".join(filter(None, parts)) or "nothing"

    def with_seed(self, seed: int) -> Recipe:
        """The recipe of a trial."""
        return vary(self.recipe, seed=self.recipe.seed + seed)


def settle(
    plan: AblationPlan,
    workspace: Workspace,
    settings: Settings,
    *,
    model: str = "",
    values: Mapping[str, str] | None = None,
) -> list[Settled]:
    """Every variant from every parent; `model` and `values` (--set) stand above the plan's.

    Raises FactoryError with the variant: an unknown recipe, key or rule, a file that is missing.
    """
    rulebook = Rulebook.load(workspace)
    models = plan.models if plan.models and not model else {"": model}
    return [
        _settle(plan, variant, workspace, settings, rulebook, (label, folder), values or {})
        for label, folder in models.items()
        for variant in plan.variant
    ]


def _settle(
    plan: AblationPlan,
    variant: AblationVariant,
    workspace: Workspace,
    settings: Settings,
    rulebook: Rulebook,
    parent: tuple[str, str],
    values: Mapping[str, str],
) -> Settled:
    label, given = parent
    where = f"the variant {variant.name}"
    name = variant.recipe or plan.recipe or settings.recipe
    recipe = load_recipe(workspace, name, {}).recipe
    flags = {key: parse_value(key, text) for key, text in values.items()}
    for table in (plan.set, variant.set, flags):
        recipe = with_values(recipe, dict(flatten(table)), where)
    embedder = recipe.codes.embedder
    if embedder:
        folder = str(workspace.model_folder(embedder))
        recipe = vary(recipe, codes=vary(recipe.codes, embedder=folder))
    gold = variant.gold
    rounds = plan.rounds if variant.rounds is None else variant.rounds
    if gold and (plan.requests or settings.queries or not rounds):
        raise InputError(
            f"{variant.name}: gold wants rounds on the home world's requests, which have labels",
            where=where,
            remedy="leave `requests` out, and say how many rounds; or teach rows of your own",
        )
    files = plan.teach if variant.teach is None else variant.teach
    return Settled(
        name=f"{label}: {variant.name}" if label else variant.name,
        model=_name_model(workspace, given or variant.model or plan.model or settings.model),
        recipe=vary(recipe, score=vary(recipe.score, benchmarks=())),
        rules={
            **settings.rules,
            **_expand(plan.rules, rulebook, "the plan"),
            **_expand(variant.rules, rulebook, where),
        },
        teach=tuple(find_file(workspace, file, f"{where}: teach") for file in files),
        rounds=rounds,
        gold=gold,
        published=variant.published,
    )


def _name_model(workspace: Workspace, model: str) -> str:
    """A folder as any workspace finds it. Raises ModelError where it is no model."""
    folder = workspace.model_folder(model)
    check_model_folder(folder)
    embedded = Settings().model
    is_embedded = folder.resolve() == (shipped_root() / embedded).resolve()
    return embedded if is_embedded else str(folder.resolve())


def _expand(
    patterns: Mapping[str, RuleSetting], rulebook: Rulebook, where: str
) -> dict[str, RuleSetting]:
    settings: dict[str, RuleSetting] = {}
    for pattern, setting in patterns.items():
        found = [rule for rule in rulebook.rules if fnmatch(rule, pattern)]
        if not found:
            rulebook.rule(pattern)  # an error that names the nearest
        settings |= dict.fromkeys(found, setting)
    return settings


def find_file(workspace: Workspace, path: str, key: str) -> Path:
    """A file or folder of a plan: absolute, or relative to the workspace. Raises InputError."""
    found = workspace.root / Path(path).expanduser()
    if not found.exists():
        raise InputError(
            f"{key}: there is no {path}",
            where=str(found),
            remedy="put it there, or edit the plan (`factory eject plans/NAME.toml` copies it)",
        )
    return found


def write_home_sets(plan: AblationPlan, workspace: Workspace) -> None:
    """Write the sets that are drawn of the home world into a workspace's eval/."""
    eval_folder = workspace.root / "eval"
    for of in plan.benchmark:
        if not of.is_drawn:
            continue
        categories = CATEGORIES if of.home else LACKS
        text = HOME_TOML.format(
            what="" if of.home else "that call for no call, ",
            items=len(categories) * (of.home or of.abstain),
            seed=of.seed,
            name=of.name,
            categories=list(categories),
        )
        if of.home:
            write_items(eval_folder / of.name, other_home_items(of.home, of.seed))
        else:
            text += "[judge]\n" + "".join(f'{lack} = "no_call"\n' for lack in LACKS)
            write_quiet_items(eval_folder / of.name, quiet_items("home", of.abstain, f" {of.seed}"))
        (eval_folder / f"{of.name}.toml").write_text(text, encoding="utf-8")


def refuse_taken(plan: AblationPlan, workspace: Workspace) -> None:
    """Raise ContentError where a set to be drawn has the name of a benchmark."""
    taken = {path for path, _ in workspace.walk("eval", ".toml")}
    for of in plan.benchmark:
        if of.is_drawn and f"eval/{of.name}.toml" in taken:
            raise ContentError(
                f"there is a benchmark {of.name} already, and the plan draws another one",
                where=f"eval/{of.name}.toml",
                remedy="give the drawn set another name, or leave `home` and `abstain` out",
            )


def load_scored(plan: AblationPlan, workspace: Workspace, root: Path) -> dict[str, Scorable]:
    """The plan's benchmarks by their full names; paths that it gives are relative to `root`.

    Raises FactoryError where one cannot be scored.
    """
    found: dict[str, Scorable] = {}
    for of in plan.benchmark:
        benchmark = load(workspace, of.name, absolute(of.changes, root))
        found[benchmark.name] = benchmark
    return found


def absolute(table: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """A definition whose paths below `root` are absolute, so that it can be copied elsewhere."""

    def change(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [change(each) for each in value]
        path = root / str(value)
        return str(path.resolve()) if value and path.exists() else value

    return {key: change(value) if key in PATHS else value for key, value in table.items()}


def differing(variants: Sequence[Settled]) -> list[dict[str, Any]]:
    """Of each variant, the recipe keys in which not all of them agree."""
    tables = [
        dict(flatten(each.recipe.model_dump(mode="json", exclude_none=True))) for each in variants
    ]
    keys = [key for key in tables[0] if any(t.get(key) != tables[0].get(key) for t in tables)]
    return [{key: table.get(key) for key in keys if key != "extends"} for table in tables]

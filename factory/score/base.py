"""What a benchmark of any kind is to whoever scores: loaded data, a basis, items, a card.

Loading checks the data before any model, scoring gives an item for each question with its mark and
reason, and a card adds the items up. A command and a round see no difference between the kinds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from factory.domain import bounded
from factory.domain.bounded import parse_json
from factory.domain.failures import ContentError
from factory.domain.monitor import Monitor
from factory.domain.records import Checkpoint, ItemScore, Score, Unit
from factory.engines.base import Engine
from factory.ledger.database import Ledger
from factory.score.card import Scorecard
from factory.score.definition import Patience, Split, full_name
from factory.score.estimates import subtract
from factory.score.items import Item
from factory.score.kept import KeptAnswers
from factory.score.published import PublishedTable
from factory.workspace.folder import Workspace
from factory.workspace.models import form_of
from factory.workspace.prompts import Prompts
from factory.workspace.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What scoring works with besides the benchmark and the checkpoint."""

    workspace: Workspace
    settings: Settings
    prompts: Prompts
    ledger: Ledger
    monitor: Monitor
    kept: KeptAnswers | None = None
    """Answers of the scoring under way; a benchmark that opens an engine puts them before it."""

    @classmethod
    def load(cls, workspace: Workspace, settings: Settings, monitor: Monitor) -> Setup:
        """Raises FactoryError where a prompt is broken."""
        prompts = Prompts.load(workspace)
        prompts.check()
        return cls(
            workspace=workspace,
            settings=settings,
            prompts=prompts,
            ledger=Ledger(workspace.state, on_busy=monitor.note),
            monitor=monitor,
        )

    def of(self, checkpoint: Checkpoint) -> Setup:
        """The same, with questions put in the form in which the checkpoint was taught to call."""
        form = form_of(Path(checkpoint.path))
        return replace(self, prompts=replace(self.prompts, form=form))

    def notify(self, text: str) -> None:
        """Tell the user what they should know."""
        self.monitor.note(text)

    def progress(self, done: int, total: int) -> None:
        """Show how many items of all are done."""
        self.monitor.progress(done, total=total)

    def log(self, name: str) -> Path:
        """Where the output of a child goes."""
        return self.workspace.state / "logs" / "score" / f"{name}.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What a checkpoint is compared with: no checkpoint, scored by the same measures."""

    name: str
    """Its name in tables, and in the ledger in place of a checkpoint's id."""
    basis: str
    """Hash of what its score depends on."""
    score: Callable[[], Awaitable[list[ItemScore]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorable(ABC):
    """A benchmark of any kind, loaded and checked."""

    stem: str
    """Its file: `toolbench` is eval/toolbench.toml."""
    variant: str = ""
    """What was changed about it: `limit=20`."""
    title: str
    """One line for people."""
    split: Split
    """`dev` may decide promotion, `test` is only reported."""
    items: tuple[Item, ...]
    """All questions; what no sample may hold."""
    patience: Patience = field(default_factory=Patience)
    unit: ClassVar[Unit] = "percent"

    @property
    def name(self) -> str:
        """What tables and the ledger call it: `toolbench[limit=20]`."""
        return full_name(self.stem, self.variant)

    @property
    def categories(self) -> tuple[str, ...]:
        """In the order in which they are shown."""
        return tuple(dict.fromkeys(item.category for item in self.items))

    @abstractmethod
    def basis(self, setup: Setup) -> str:
        """Hash of what a score depends on besides the checkpoint."""

    def ruler(self, setup: Setup) -> Mapping[str, str]:
        """Hashes of the parts of the basis, where it can be told what of it has changed."""
        return {}

    @abstractmethod
    def card(self, items: Sequence[ItemScore]) -> Scorecard:
        """What judged items say, in whatever order they are."""

    def change(self, before: Sequence[ItemScore], after: Sequence[ItemScore]) -> Scorecard:
        """What changed on the same items, in points: the card's lines by a paired bootstrap.

        ValueError where the items are not the same.
        """
        card = self.card(subtract(before, after))
        categories, averages = (
            tuple(replace(line, ceiling=None, official=None, note="", cut=0) for line in lines)
            for lines in (card.categories, card.averages)
        )
        return replace(card, categories=categories, averages=averages, reasons=(), cut=())

    def summary(self, checkpoint: str, items: Sequence[ItemScore]) -> Score:
        """The score of a checkpoint's items, as the ledger keeps it."""
        card = self.card(items)
        overall = next(line.estimate for line in card.averages if line.estimate)
        found = {line.name: line.estimate for line in card.categories if line.estimate}
        return Score(
            benchmark=self.name,
            checkpoint=checkpoint,
            value=overall.value,
            low=overall.low,
            high=overall.high,
            categories={name: estimate.value for name, estimate in found.items()},
            intervals={name: (each.low, each.high) for name, each in found.items()},
            num_items=len(items),
            unit=self.unit,
        )

    def baselines(self, setup: Setup) -> Sequence[Baseline]:
        """What else stands in its tables."""
        return ()

    def beside(self, table: PublishedTable, card: Scorecard) -> Mapping[str, float]:
        """The card's values in the columns of a published table."""
        overall = next((x.estimate.value for x in card.averages if x.estimate), None)
        return {} if overall is None else {"overall": overall}

    @property
    def asked(self) -> Mapping[str, str | int]:
        """How its questions are put, where that is chosen."""
        return {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the data was left out, or may make figures differ from published ones."""
        return ()

    def answers(self, items: Sequence[ItemScore]) -> Mapping[str, Any]:
        """What was answered, for other programs."""
        return {item.item: item.answer for item in items}

    def ordered(self, items: Sequence[ItemScore]) -> list[ItemScore]:
        """Items by category."""
        order = {name: place for place, name in enumerate(self.categories)}
        return sorted(items, key=lambda item: order[item.category])


class Asked(Scorable):
    """A benchmark that asks an engine which serves the checkpoint."""

    __slots__ = ()

    @abstractmethod
    async def score(self, setup: Setup, checkpoint: Checkpoint, engine: Engine) -> list[ItemScore]:
        """Every item, judged."""

    def num_engines(self, setup: Setup, checkpoint: Checkpoint) -> int:
        """How many models of this machine are open at once while the checkpoint is scored."""
        return 1


class SelfServed(Scorable):
    """A benchmark that opens the checkpoint's folder in a child process of its own.

    It is scored with no engine open, so that no two models are in memory at once.
    """

    __slots__ = ()

    @abstractmethod
    async def score(self, setup: Setup, checkpoint: Checkpoint) -> list[ItemScore]:
        """Every item, judged."""


def make_item(category: str, key: str, query: str, truth: object) -> Item:
    """A question without functions on offer; its id is the category's and its own key."""
    return Item(
        id=f"{category}/{key}", category=category, query=query, functions=(), ground_truth=(truth,)
    )


def find_data(workspace: Workspace, data: str, name: str) -> Path:
    """The file or folder of a definition's `data`. Raises ContentError where there is none."""
    where = f"eval/{name}.toml"
    remedy = f'factory score {name} --data PATH, or `data = "PATH"` in {where} (`factory eject`)'
    if not data:
        raise ContentError(f"{name} comes without its data", where=where, remedy=remedy)
    found = resolve(workspace, data)
    if not found.exists():
        raise ContentError(f"there is no {found}", where=where, remedy=remedy)
    return found


def check_path(workspace: Workspace, path: str, name: str, key: str) -> None:
    """Raise ContentError where the path under a definition's key leads nowhere; empty is none."""
    if path and not (found := resolve(workspace, path)).exists():
        raise ContentError(
            f"{key}: there is no {found}",
            where=f"eval/{name}.toml",
            remedy=f"correct {key}; a path is absolute, or relative to the workspace",
        )


def resolve(workspace: Workspace, path: str) -> Path:
    """A path of a definition: absolute, or relative to the workspace."""
    return workspace.root / Path(path).expanduser()


def read_json(file: Path) -> Any:
    """A file's JSON. Raises ContentError."""
    return parse_json(read_text(file), str(file))


def read_text(file: Path) -> str:
    """The text of a file of data. Raises ContentError."""
    return bounded.read_text(file, most=bounded.DATA)

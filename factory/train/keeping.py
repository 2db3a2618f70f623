"""The last saved step of a training, from which a child that is started again goes on.

transformers writes and reads what a step is (weights, moments, schedule, random numbers, place in
the data); here is when, where, and of which training. It lies beside the job's examples; there is
one, and a second while it is written.

Saved are steps of the first of `codes.iterations`, up to the first stage of pairs (DPO): what comes
later begins with a model that is merged, or whose dropout is off, or with codes made from it.
"""

from __future__ import annotations

import json
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from factory.codes.codebook import Codebook
from factory.domain.canon import canonical_json, digest
from factory.domain.failures import DiskError
from factory.ledger.place import FixedFolder
from factory.train.job import StageFigures, TrainingJob
from factory.train.trainer import Reporter

FACTS = "saved.json"
"""Last file written of a saved step: whose it is, and what the reporter knew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedStep:
    """A saved step."""

    folder: Path
    place: int
    """Of its stage, from 0."""
    figures: tuple[StageFigures, ...]
    """Of the stages before."""
    reported: dict[str, Any]
    """Reporter.facts at that step."""

    @property
    def step(self) -> int:
        """Of the whole training."""
        return int(self.reported["log"][-1]["step"])


class StepSaver(TrainerCallback):  # type: ignore[misc]
    """Has a step saved every so many minutes, and finds the one of a training that was killed."""

    def __init__(self, job: TrainingJob, codebook: Codebook | None) -> None:
        """Take the codes that the stages will learn: a saved step is of these too."""
        self._job, self._codebook = job, codebook
        self._folder = FixedFolder(job.examples.parent)
        self._seconds = 60 * job.setup.train.save_minutes
        self._last = self._began = time.monotonic()
        self._place, self._figures = 0, list[StageFigures]()
        self._reporter: Reporter | None = None

    @cached_property
    def _known(self) -> str:
        tools = () if self._codebook is None else self._codebook.tools
        return digest(canonical_json([self._job.digest(), [(t.tool.id, t.code) for t in tools]]))

    def find(self) -> SavedStep | None:
        """The saved step of this very training; whatever else lies there goes."""
        found = None
        for path in sorted(self._job.saved.glob("*"), reverse=True):
            if found is None and (found := self._read(path)) is not None:
                continue
            shutil.rmtree(path, ignore_errors=True)
        return found

    def room(self) -> Path | None:
        """Where transformers may write steps; None where none is saved."""
        if not self._seconds:
            return None
        self._job.saved.mkdir(exist_ok=True)
        return self._job.saved

    def begin(self, reporter: Reporter, place: int, figures: list[StageFigures]) -> None:
        """What the steps that follow are of: this stage, after stages with these figures."""
        self._reporter, self._place, self._figures = reporter, place, figures

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._began = time.monotonic()
        due = self._began - self._last >= self._seconds
        control.should_save = due and state.global_step < state.max_steps
        if control.should_save:
            self._folder.check()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Give the step that was written its name, and remove the one before."""
        written = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._take_back_if_moved(written)
        if written.exists():  # else the trainer has said why not
            try:
                self._keep(written)
            except OSError as error:
                print(f"step {state.global_step} is not saved: {error}", flush=True)
        self._last = time.monotonic()

    def _take_back_if_moved(self, written: Path) -> None:
        """Leave nothing of a step in the folder that has taken the place of this one's."""
        try:
            self._folder.check()
        except DiskError:
            shutil.rmtree(written, ignore_errors=True)
            for folder in (written.parent, self._job.saved):
                with suppress(OSError):  # holds what is another training's, or is not there
                    folder.rmdir()
            raise

    def _keep(self, written: Path) -> None:
        assert self._reporter is not None
        reported, sizes = self._reporter.facts(), _sizes(written)
        facts = {
            "known": self._known,
            "sizes": sizes,
            "place": self._place,
            "figures": [asdict(each) for each in self._figures],
            "reported": reported,
        }
        (written / FACTS).write_text(json.dumps(facts), encoding="utf-8")
        step = reported["log"][-1]["step"]
        kept = self._job.saved / f"step-{step:09}"
        written.rename(kept)
        for path in self._job.saved.glob("step-*"):
            if path != kept:
                shutil.rmtree(path, ignore_errors=True)
        took, size = time.monotonic() - self._began, sum(sizes.values()) / 1e6
        print(f"saved step {step}: {size:,.1f} MB in {took:.1f} s", flush=True)

    def _read(self, path: Path) -> SavedStep | None:
        """The step in a folder; None where it is cut off or another training's."""
        try:
            facts = json.loads((path / FACTS).read_text("utf-8"))
            if facts["known"] != self._known or facts["sizes"] != _sizes(path):
                return None
        except (OSError, ValueError):
            return None
        figures = tuple(StageFigures(**row) for row in facts["figures"])
        return SavedStep(
            folder=path, place=facts["place"], figures=figures, reported=facts["reported"]
        )


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.name != FACTS}

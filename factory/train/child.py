"""Examples -> checkpoint: TRL's SFTTrainer in a child process, supervised by the command.

The child (`python -m factory.train.child '<job>'`) starts from the parent checkpoint with a fresh
optimizer (A10), gives new tools their codes, learns the examples, and writes a plain model folder
that an engine serves as it is. The folder is written aside and renamed, so a child that is killed
is simply run again.

Objective (algorithms §8): token-mean cross-entropy on assistant texts and their end-of-turn
tokens, all kinds mixed in one epoch, or stage by stage with a weight for each kind (staging.py).
Without weights of kinds, code tokens alone are weighted: a code is a handful of tokens where a
document is hundreds, so together they get `code_share` of the loss, but one code example never more
than an average other example. Codes that read as digits or names share their tokens with other
text: there the answers of code examples are weighted, up to their end.
"""

from __future__ import annotations

import json
import os
import shutil
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peft.utils.other import TrainableTokensWrapper
from safetensors import SafetensorError

from factory.codes.codebook import Codebook
from factory.codes.gist import GIST_PATH
from factory.codes.growing import refresh
from factory.codes.language import read_language
from factory.codes.recoding import aliases_of
from factory.codes.saving import save_codebook
from factory.domain.disk import disk_remedy
from factory.domain.exhausted import is_out_of_memory
from factory.domain.failures import (
    ChildError,
    DiskError,
    FactoryError,
    GateError,
    InputError,
    ModelError,
)
from factory.domain.records import CodeAlias, Example, Fluency, Tool
from factory.engines.child import Channel, run_child
from factory.engines.loading import copy_processors
from factory.engines.sharing import open_to_others
from factory.ledger.place import FixedFolder
from factory.train.coding import Given, Recode, give_codes, plan_codes
from factory.train.encoding import EncodedSet
from factory.train.examples import code_example, read_examples, unique_examples
from factory.train.job import StageFigures, TrainingJob, read_tools
from factory.train.keeping import StepSaver
from factory.train.learner import Learner, Send, encode_for, load_learner
from factory.train.memory import num_processes
from factory.train.run import NEED_LESS
from factory.train.staging import has_rows, limits_for, restore_forward, run_stages
from factory.train.trainer import Reporter, code_ids_of
from factory.workspace.identity import identify
from factory.workspace.machine import visible_gpus
from factory.workspace.models import DONE_FILE, FORM, fingerprint


def train(job: TrainingJob, send: Send) -> dict[str, Any]:
    """Run the job in this process and return its final message.

    Raises InputError where nothing is left to learn, ModelError for a parent that cannot be
    trained, DiskError where the folder cannot be written.
    """
    if (finished := _finished(job)) is not None:
        shutil.rmtree(job.saved, ignore_errors=True)
        return finished
    place = FixedFolder(job.examples.parent)
    send({"type": "phase", "text": "loading the model"})
    examples, new_tools = read_examples(job.examples), read_tools(job.new_tools)
    learner = load_learner(job)
    if learner.turn.fault is not None:
        raise learner.turn.fault
    parent, reporter = learner.codebook, Reporter(send)
    language = Moments(learner, job)
    try:
        given, encoded, stages = _learn(learner, job, examples, new_tools, reporter, send, language)
    except GateError:
        shutil.rmtree(job.saved, ignore_errors=True)
        raise
    except RuntimeError:
        if learner.team is not None:
            learner.team.follow_the_dead()
        raise
    if learner.team is not None:
        learner.team.close()
    language.read("after", given.codebook)
    figures = {
        "num_tokens": reporter.tokens,
        "steps": reporter.steps,
        "seconds": round(reporter.seconds, 3),
        "log": reporter.log,
        "stages": [asdict(each) for each in stages],
        "language": {moment: asdict(read) for moment, read in language.figures.items()},
    }
    aliases: Sequence[CodeAlias] = ()
    if parent is not None and given.codebook is not None and given.recoding is not None:
        aliases = aliases_of(parent, given.codebook)
    send({"type": "phase", "text": "writing the checkpoint"})
    done = _save(learner, job, place, encoded, given, figures, aliases)
    shutil.rmtree(job.saved, ignore_errors=True)
    return done


def _learn(
    learner: Learner,
    job: TrainingJob,
    examples: Sequence[Example],
    new_tools: Sequence[Tool],
    reporter: Reporter,
    send: Send,
    language: Moments,
) -> tuple[Given, EncodedSet, list[StageFigures]]:
    """Codes, then the stages; with `codes.iterations` both again, codes from the trained model.

    Codes and examples are those of the last iteration; one without codes is the only one.
    """
    setup, stages = job.setup, list[StageFigures]()
    plan = plan_codes(learner.codebook, setup.codes, new_tools)
    iterations = setup.codes.iterations
    told = f"giving codes to {len(new_tools)} tools"
    for iteration in range(1, iterations + 1):
        send({"type": "phase", "text": told})
        given = give_codes(learner, plan, examples, job, send)
        if given.rows and iteration == 1:
            language.read("coded", given.codebook)
        if given.recoding is not None:
            more = [code_example(t, learner.prompts, "recode") for t in given.recoding.changed]
            examples = unique_examples([*examples, *more])
        if given.codebook is None or not setup.codes.are_made:
            iterations = 1
        encoded = _encode(learner, examples, given.codebook, job)
        keeper = StepSaver(job, given.codebook) if iteration == 1 else None
        stages += run_stages(
            learner, encoded, given.codebook, setup, reporter, send, keeper, iteration, iterations
        )
        if iteration == iterations or given.codebook is None:
            break
        restore_forward(learner.model)
        told = f"iteration {iteration + 1} of {iterations}: giving all tools codes anew"
        plan = Recode(_follow(learner, given.codebook, setup.seed), (), told.split(":")[0])
    return given, encoded, stages


def _encode(
    learner: Learner, examples: Sequence[Example], codebook: Codebook | None, job: TrainingJob
) -> EncodedSet:
    """The examples that some stage takes, in token ids. Raises InputError where none is left."""
    setup = job.setup
    limits = limits_for(setup, has_rows(learner, codebook, setup))
    encoded = encode_for(learner, examples, codebook, setup.train.max_length, limits)
    if not encoded.examples:
        what, remedy = encoded.explain_empty()
        raise InputError(what, where=str(job.examples), remedy=remedy)
    if codebook is not None:
        _check_codes(learner, encoded, codebook)
    return encoded


def _follow(learner: Learner, codebook: Codebook, seed: int) -> Codebook:
    """The codebook in the space that the model has now."""
    still = codebook.embedder or not codebook.coder.reads_documents
    tools = [entry.tool for entry in codebook.tools]
    return refresh(codebook, None if still else learner.reader.embed(tools), seed=seed)


class Moments:
    """What the model makes of the job's plain text, if there is one, at moments of the training."""

    def __init__(self, learner: Learner, job: TrainingJob) -> None:
        """Read it `before` anything is done."""
        self._learner = learner
        self._text = job.plain.read_text("utf-8") if job.plain.exists() else ""
        self.figures: dict[str, Fluency] = {}
        self.read("before", learner.codebook)

    def read(self, moment: str, codebook: Codebook | None) -> None:
        """The figures of a moment, with the code tokens of its codebook."""
        model, tokenizer = self._learner.model, self._learner.tokenizer
        found = read_language(model, tokenizer, self._text, code_ids_of(self._learner, codebook))
        if found is not None:
            self.figures[moment] = found


def _check_codes(learner: Learner, encoded: EncodedSet, codebook: Codebook) -> None:
    """ModelError where an answer that is a code is learnt in other ids than its trie has."""
    where = learner.tokenizer.name_or_path
    spelt = set(codebook.spelling.encode([*codebook.taken()], learner.tokenizer, where))
    for example in encoded.examples:
        for content in example.contents if example.is_code else ():
            if content not in spelt:
                raise ModelError(
                    "The model's tokenizer does not keep the tokens of a code apart: "
                    f"{learner.tokenizer.convert_ids_to_tokens(list(content))}",
                    where=where,
                    remedy="choose another [codes] coder, such as numeric, or take the added token "
                    "that swallows others out of the tokenizer",
                )


def _finished(job: TrainingJob) -> dict[str, Any] | None:
    """The result, where an earlier run of the same job got to its end."""
    path = job.out / DONE_FILE
    if path.exists():
        done: dict[str, Any] = json.loads(path.read_text("utf-8"))
        known = {job.digest()}
        if identify(job.checkpoint).changed.timestamp() < path.stat().st_mtime:
            known.add(job.digest(of_weights=True))
        if done["job"] in known and done["fingerprint"] == fingerprint(job.out):
            return done
    return None


def _save(
    learner: Learner,
    job: TrainingJob,
    place: FixedFolder,
    encoded: EncodedSet,
    given: Given,
    figures: dict[str, Any],
    aliases: Sequence[CodeAlias],
) -> dict[str, Any]:
    """Write the folder aside, rename it, and return the final message; nothing of it at the path
    of a workspace that was moved, where another may be by now."""
    partial = job.out.with_name(job.out.name + ".tmp")
    master = learner.model.dtype
    place.check()
    try:
        _clear(partial)
        partial.mkdir(parents=True)
        learner.model.to(learner.stored_dtype).save_pretrained(partial)
        learner.tokenizer.save_pretrained(partial)
        copy_processors(job.checkpoint, partial)
        saved = None
        if given.codebook is not None:
            # What the next round embeds with are the weights as stored, rounding and all.
            learner.model.to(master)
            followed = _follow(learner, given.codebook, job.setup.seed)
            saved = save_codebook(followed, partial, learner.tokenizer, learner.turn.stop)
            if learner.reader.gist is not None:
                learner.reader.gist.save(partial / GIST_PATH)
        done = {
            "job": job.digest(),
            "fingerprint": fingerprint(partial),
            FORM: job.setup.form,
            "num_examples": encoded.num_kept,
            "dropped": dict(encoded.dropped),
            "unlearnt": encoded.unlearnt,
            **figures,
            "codes": [asdict(row) for row in given.rows],
            "recoded": given.recoding.figures() if given.recoding is not None else None,
            "aliases": [asdict(row) for row in aliases],
            "codebook": saved.summary() if saved else None,
        }
        (partial / DONE_FILE).write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
        open_to_others(partial, job.checkpoint)
        place.check()
        _clear(job.out)
        partial.rename(job.out)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise DiskError(
            f"the checkpoint cannot be written: {error}",
            where=str(partial),
            remedy=f"{disk_remedy(error)}, then `factory round --resume`",
        ) from error
    return done


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def mend_libraries() -> None:
    """Let TRL's fused head train code tokens' rows by PEFT.

    The head reads `lm_head.bias` (trl 1.16, trainer/utils.py), which PEFT's wrapper of trained
    rows does not pass on (peft 0.21): it looks for the name in the rows' adapter. A PEFT whose
    wrapper has the name is left alone.
    """
    if not hasattr(TrainableTokensWrapper, "bias"):
        TrainableTokensWrapper.bias = property(
            lambda wrapper: getattr(wrapper.token_adapter.base_layer, "bias", None)
        )


def main(channel: Channel, arguments: list[str]) -> None:
    """The child: `python -m factory.train.child '<job as JSON>'`."""
    mend_libraries()
    job = TrainingJob.from_json(json.loads(arguments[0]))
    # One GPU a process: with several, the trainer would wrap the model in DataParallel. Nothing has
    # asked for one so far, the imports neither.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[:1]
    gpus = visible_gpus()[: num_processes(job.setup.train)]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus or visible)
    try:
        done = train(job, channel.send)
    except Exception as error:
        if isinstance(error, FactoryError) or not is_out_of_memory(error):
            raise
        traceback.print_exc()
        raise ChildError(f"training ran out of memory: {error!r}", remedy=NEED_LESS) from error
    channel.send({"type": "done", **done})


if __name__ == "__main__":
    run_child(main)

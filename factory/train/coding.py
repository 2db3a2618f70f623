"""Codes during a training: keep, grow, fit, or code anew; what the model learns of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from factory.codes.arrays import Floats
from factory.codes.codebook import Codebook, Fresh, ToolCode
from factory.codes.config import reads_documents
from factory.codes.growing import add_tools, fit_codebook, order_of
from factory.codes.guided import Coding, make_coding
from factory.codes.install import install
from factory.codes.levels import choose_shape
from factory.codes.recoding import Recoding, recode, why_recode
from factory.codes.spelling import code_tokens
from factory.codes.vocabulary import add_code_tokens, kept_rows
from factory.domain.records import Example, GivenCode, Tool
from factory.train.examples import names_by_code
from factory.train.job import TrainingJob, read_pairs
from factory.train.learner import Learner, Send, encode_for
from factory.workspace.recipe import CodesSection


class Keep(NamedTuple):
    """The codes, if any, stay as they are."""


class Grow(NamedTuple):
    """New tools get codes of a codebook that stays."""

    known: Codebook
    new: Sequence[Tool]


class Fit(NamedTuple):
    """The first codebook is made."""

    new: Sequence[Tool]


class Recode(NamedTuple):
    """All tools get codes anew (A41)."""

    known: Codebook
    new: Sequence[Tool]
    reason: str


def plan_codes(
    known: Codebook | None, codes: CodesSection, tools: Sequence[Tool]
) -> Keep | Grow | Fit | Recode:
    """What a training does about codes: `tools` want one, the parent checkpoint has `known`."""
    if not codes.are_made:
        return Keep()
    if known is None:
        return Fit(tools) if len(tools) >= max(2, codes.min_tools) else Keep()
    new = [tool for tool in tools if tool.id not in known]
    if reason := why_recode(known, codes, len(new)):
        return Recode(known, new, reason)
    return Grow(known, new) if new else Keep()


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Codes given in this run."""

    codebook: Codebook | None
    """The checkpoint's; None where it gets none."""
    rows: Sequence[GivenCode] = ()
    """One a tool that got a code, its first or another one."""
    recoding: Recoding | None = None
    """What making all codes anew changed, where that was done."""


def give_codes(
    learner: Learner,
    plan: Keep | Grow | Fit | Recode,
    examples: Sequence[Example],
    job: TrainingJob,
    send: Send,
) -> Given:
    """Codes for new tools, from the parent's codebook or a new one, or for all tools anew (A41).

    Tokens that are new, or mean something else now, get rows made of their members. Embeddings come
    from the parent model, the space its codebook was last refreshed for, unless the recipe names
    another embedder.
    """

    def tell(text: str) -> None:
        send({"type": "phase", "text": text})

    setup, codes = job.setup, job.setup.codes
    match plan:
        case Keep():
            return Given(codebook=learner.codebook)
        case Grow(known, new):
            # In a full codebook what is left has no code until tools are coded anew, and its code
            # and retrieve examples are dropped as `no_code`.
            grown = add_tools(known, new, _embed(learner, new, codes))
            install(
                grown.codebook,
                learner.model,
                learner.tokenizer,
                fresh=grown.fresh,
                how=codes.first_rows,
            )
            return Given(codebook=grown.codebook, rows=_rows(grown.codebook, grown.added))
        case Fit(new):
            learner.reader.compress(new, codes.gist, setup.gist_seed, tell)
            documents_ND = _embed(learner, new, codes)
            codebook = fit_codebook(
                new,
                documents_ND,
                codes,
                seed=setup.seed,
                version=setup.version,
                pairs=read_pairs(job.pairs),
            )
            recoding, everyone, fresh = None, new, None
        case Recode(known, new, reason):
            everyone = [*(entry.tool for entry in known.tools), *new]
            _follow_model(learner, known, everyone, examples, job, tell)
            documents_ND = _embed(learner, everyone, codes)
            recoding = recode(
                known,
                new,
                documents_ND,
                codes,
                reason=reason,
                seed=setup.seed,
                version=setup.version,
                pairs=read_pairs(job.pairs),
            )
            codebook, fresh = recoding.codebook, recoding.fresh
    if documents_ND is not None:
        documents_ND = documents_ND[list(order_of(everyone).values())]
    install(
        codebook, learner.model, learner.tokenizer, documents_ND, fresh=fresh, how=codes.first_rows
    )
    rows = _rows(codebook, codebook.tools)
    return Given(codebook=codebook, rows=rows, recoding=recoding)


def _follow_model(
    learner: Learner,
    known: Codebook,
    tools: Sequence[Tool],
    examples: Sequence[Example],
    job: TrainingJob,
    tell: Callable[[str], None],
) -> None:
    """Let the compression of documents follow the model, as the recipe says (A16).

    SGTC's body has L_traj over trajectories; rounds have none of their own (A47), so it is over
    the chats that ask for a tool, which supplied trajectories are among.
    """
    setup, codes, gist = job.setup, job.setup.codes, learner.reader.gist
    same = gist is not None and gist.config.views == codes.gist.views
    if codes.post_guided != "body" or not same:
        learner.reader.compress(tools, codes.gist, setup.gist_seed, tell)
        return
    row_of = order_of(tools)
    asked = [e for e in examples if e.kind in ("retrieve", "trajectory") and names_by_code(e)]
    now_NVD = learner.reader.embed(tools)
    shape = choose_shape(len(row_of), codes.size, codes.levels, codes.gist.views)
    names = code_tokens(shape.levels * codes.gist.views, shape.size)
    ids = add_code_tokens(learner.tokenizer, learner.model, names)
    with kept_rows(learner.model, [token for position in ids for token in position]) as give_back:

        def follow(embeddings_NVD: Floats | None) -> Coding:
            give_back()
            given_NVD, codebook = now_NVD, known
            fresh: Fresh | None = ()  # the codes in force, whose rows the model has
            if embeddings_NVD is not None:
                new = tools[len(known) :]
                recoding = recode(known, new, embeddings_NVD, codes, seed=setup.seed)
                given_NVD, codebook, fresh = embeddings_NVD, recoding.codebook, recoding.fresh
            rows = [row_of[tool_id] for tool_id in codebook.tool_ids]
            ids = install(
                codebook,
                learner.model,
                learner.tokenizer,
                given_NVD[rows],
                fresh=fresh,
                how=codes.first_rows,
            )
            chats = [
                chat for example in asked for chat in _encode_chats(learner, example, codebook, job)
            ]
            return make_coding(codebook, learner.model, ids, given_NVD, row_of, chats)

        learner.reader.guide(tools, codes.gist, setup.gist_seed, follow, tell)


def _encode_chats(
    learner: Learner, example: Example, codebook: Codebook, job: TrainingJob
) -> list[tuple[Sequence[int], Sequence[int]] | None]:
    """Ids and labels of an example in a codebook's codes; one a turn at most, the rest None."""
    encoded = encode_for(learner, [example], codebook, job.setup.train.max_length).examples
    num_turns = sum(message.role == "assistant" and message.loss for message in example.messages)
    chats = [(chat.input_ids, chat.labels) for chat in encoded]
    return [*chats, *[None] * (num_turns - len(chats))]


def _embed(learner: Learner, tools: Sequence[Tool], codes: CodesSection) -> Floats | None:
    """Embeddings of the tools' documents; None where the recipe's coder reads none."""
    return learner.reader.embed(tools) if reads_documents(codes) else None


def _rows(codebook: Codebook, entries: Sequence[ToolCode]) -> list[GivenCode]:
    return [
        GivenCode(
            tool_id=entry.tool.id,
            code=codebook.text_of(entry.code),
            resolved_by=entry.resolved_by,
            error=entry.error,
            ood=entry.ood,
        )
        for entry in entries
    ]

"""Codes during a training: keep, grow, fit, or code anew; what the model learns of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from factory.codes.codebook import Codebook, Recoding, ToolCode, fit_codebook, recode
from factory.codes.config import CodeConfig
from factory.codes.guided import Coding, make_coding
from factory.codes.levels import choose_shape
from factory.codes.vocabulary import add_code_tokens, code_tokens, kept_rows
from factory.domain.failures import InputError
from factory.domain.records import Example, Tool, ToolCodeRow
from factory.train.job import TrainingJob, read_pairs
from factory.train.learner import Learner, Send, encode_for

if TYPE_CHECKING:
    from factory.codes.arrays import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Codes given in this run."""

    rows: list[ToolCodeRow]
    """One a tool that got a code, its first or another one."""
    recoding: Recoding | None = None
    """What making all codes anew changed, where that was done."""


def give_codes(
    learner: Learner,
    tools: Sequence[Tool],
    examples: Sequence[Example],
    job: TrainingJob,
    send: Send,
) -> Given:
    """Codes for new tools, from the parent's codebook or a new one, or for all tools anew (A41).

    Tokens that are new, or mean something else now, get rows made of their members. Embeddings come
    from the parent model, the space its codebook was last refreshed for, unless the recipe names
    another embedder.
    """
    known, codes = learner.codebook, job.config.codes
    if codes is None:
        return Given(rows=[])
    tools = [tool for tool in tools if known is None or tool.id not in known]
    times = [f"{row:09d}" for row in range(len(tools))]
    reason = "" if known is None else known.why_recode(codes, len(tools))
    if known is None and len(tools) < max(2, codes.min_tools):
        return Given(rows=[])
    if known is not None and not reason:
        if not tools:
            return Given(rows=[])
        # A full codebook: what is left has no code until tools are coded anew, and its code and
        # retrieve examples are dropped as `no_code`.
        with contextlib.suppress(InputError):
            known.add(tools, document_texts(learner, tools, codes), times)
        known.install(learner.model, learner.tokenizer)
        fresh = {tool.id for tool in tools}
        return Given(rows=[_code_row(known, e) for e in known.tools if e.tool.id in fresh])
    everyone = [*(entry.tool for entry in known.tools), *tools] if known is not None else tools
    _follow_model(
        learner, everyone, examples, codes, job, lambda t: send({"type": "phase", "text": t})
    )
    documents_ND = document_texts(learner, everyone, codes)
    recoding = None
    if known is None:
        learner.codebook = fit_codebook(
            tools,
            documents_ND,
            codes,
            seed=job.config.seed,
            accepted_at=times,
            pairs=read_pairs(job.pairs),
        )
    else:
        recoding = recode(
            known,
            tools,
            documents_ND,
            codes,
            reason=reason,
            seed=job.config.seed,
            pairs=read_pairs(job.pairs),
        )
        learner.codebook = recoding.codebook
    if documents_ND is not None:
        row_of = {tool.id: row for row, tool in reversed(list(enumerate(everyone)))}
        documents_ND = documents_ND[[row_of[entry.tool.id] for entry in learner.codebook.tools]]
    learner.codebook.install(learner.model, learner.tokenizer, documents_ND, reframe=codes.reframe)
    rows = [_code_row(learner.codebook, entry) for entry in learner.codebook.tools]
    return Given(rows=rows, recoding=recoding)


def _follow_model(
    learner: Learner,
    tools: Sequence[Tool],
    examples: Sequence[Example],
    codes: CodeConfig,
    job: TrainingJob,
    tell: Callable[[str], None],
) -> None:
    """Let the compression of documents follow the model, as the recipe says (A16).

    SGTC's body has L_traj over trajectories; rounds have none of their own (A47), so it is over
    the chats that ask for a tool, which supplied trajectories are among.
    """
    known, gist = learner.codebook, learner.reader.gist
    body = codes.post_guided == "body" and gist is not None and gist.config.views == codes.views
    if known is None or codes.gist is None or not body:
        learner.reader.compress(tools, codes.gist, tell)
        return
    row_of = {tool.id: row for row, tool in reversed(list(enumerate(tools)))}
    asked = [example for example in examples if example.kind == "retrieve"]
    now_NVD = learner.reader.embed(tools)
    shape = choose_shape(len(row_of), codes.size, codes.levels, codes.views)
    names = code_tokens(shape.levels * codes.views, shape.size)
    ids = add_code_tokens(learner.tokenizer, learner.model, names)
    with kept_rows(learner.model, [token for position in ids for token in position]) as give_back:

        def follow(embeddings_NVD: Floats | None) -> Coding:
            give_back()
            given_NVD, codebook = now_NVD, known
            if embeddings_NVD is not None:
                given_NVD = embeddings_NVD
                codebook = recode(
                    known, tools[len(known) :], embeddings_NVD, codes, seed=job.config.seed
                ).codebook
            rows = [row_of[entry.tool.id] for entry in codebook.tools]
            ids = codebook.install(
                learner.model, learner.tokenizer, given_NVD[rows], reframe=codes.reframe
            )
            chats = [
                chat for example in asked for chat in _encode_chats(learner, example, codebook, job)
            ]
            return make_coding(codebook, learner.model, ids, given_NVD, row_of, chats)

        learner.reader.guide(tools, codes.gist, follow, tell)


def _encode_chats(
    learner: Learner, example: Example, codebook: Codebook, job: TrainingJob
) -> list[tuple[Sequence[int], Sequence[int]] | None]:
    """Ids and labels of an example in a codebook's codes; one a turn at most, the rest None."""
    found = encode_for(learner, [example], codebook, job.config.max_length).examples
    num_turns = sum(message.role == "assistant" for message in example.messages)
    chats = [(chat.input_ids, chat.labels) for chat in found]
    return [*chats, *[None] * (num_turns - len(chats))]


def document_texts(
    learner: Learner, tools: Sequence[Tool], config: CodeConfig | None
) -> Floats | None:
    """Embeddings of the tools' documents; None where the recipe's coder reads none."""
    reads = config is None or config.reads_documents
    return learner.reader.embed(tools) if reads else None


def _code_row(codebook: Codebook, entry: ToolCode) -> ToolCodeRow:
    return ToolCodeRow(
        tool_id=entry.tool.id,
        code=codebook.text_of(entry.code),
        resolved_by=entry.resolved_by,
        error=entry.error,
        ood=entry.ood,
    )

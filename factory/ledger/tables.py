"""The ledger's rows as types: a column that no table has is a type error where a row is made.

The migrations stay the list of tables and columns, and say what a row of each is; a test holds
these types to them. Columns ending in _json are JSON text, times have a zone, a column that is not
required is null if it is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NotRequired, TypedDict, cast


class RoundRow(TypedDict):
    round: int
    started_at: datetime
    checkpoint_id: str
    checkpoint_fingerprint: str
    recipe_name: str
    recipe_json: str
    recipe_sha: str
    prompts_sha: str
    rules_sha: str
    seed: int
    num_queries: int
    package_version: str
    versions_json: str
    identity: NotRequired[str]


class StageRow(TypedDict):
    round: int
    stage: str
    status: str
    started_at: datetime
    finished_at: datetime
    seconds: float
    detail_json: str


class QueryRow(TypedDict):
    query_id: str
    text: str
    source: str
    added_at: datetime


class DrawRow(TypedDict):
    round: int
    position: int
    query_id: str
    chosen: str


class ToolRow(TypedDict):
    tool_id: str
    name: str
    document_json: str
    origin: str
    round: int
    added_at: datetime


class ToolCodeRow(TypedDict):
    tool_id: str
    codebook_version: int
    code: str
    resolved_by: str
    error: float
    ood: bool
    round: int


class CodebookRow(TypedDict):
    version: int
    round: int
    checkpoint_id: NotRequired[str]
    coder: str
    levels: int
    size: int
    num_tools: int
    collisions_before: int
    moved: int
    penalty: float
    outlier_error: float
    reencoded: float
    usage_entropy: float
    sha: str
    path: str


class GenerationRow(TypedDict):
    round: int
    query_id: str
    stage: str
    subject: str
    sample_index: int
    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_tokens: int
    logprob: float
    seed: int
    sampling_json: str
    prompt_sha: str
    checkpoint_id: str


class VoteRow(TypedDict):
    round: int
    query_id: str
    num_samples: int
    winner: int | None
    votes: int
    margin: float
    entropy: float
    decided_by: str
    reason: str
    classes_json: str
    judgement: int


class VerdictRow(TypedDict):
    round: int
    judgement: int
    query_id: str
    subject: str
    rule: str
    reason: str
    severity: str
    path: str
    message: str


class JudgementRow(TypedDict):
    judgement: int
    round: int
    rules_sha: str
    made_at: datetime
    note: str


class SampleRow(TypedDict):
    round: int
    judgement: int
    query_id: str
    status: str
    stage: str
    reason: str
    rule: str
    path: str
    message: str
    tools_json: str
    calls_json: str
    num_tools: int
    num_calls: int
    agreement: float | None
    finished_at: datetime
    made_by: str
    made_of_json: str


class TrainingRow(TypedDict):
    """One optimizer step."""

    round: int
    step: int
    loss: float
    learning_rate: float
    tokens: int
    seconds: float
    stage: int | None
    stage_name: str | None
    losses_json: str


class ExampleRow(TypedDict):
    round: int
    kind: str
    origin: str
    messages_json: str
    num_tokens: NotRequired[int]


class CheckpointRow(TypedDict):
    checkpoint_id: str
    round: int
    parent_id: str | None
    path: str
    fingerprint: str
    promoted: bool
    reason: str
    made_at: datetime
    identity: NotRequired[str]


class ScoreRow(TypedDict):
    round: int
    checkpoint_id: str
    benchmark: str
    category: str
    value: float
    low: float | None
    high: float | None
    num_items: int | None
    basis: str
    scored_at: datetime
    unit: str
    weights_json: str | None
    identity: NotRequired[str | None]


class ItemScoreRow(TypedDict):
    """The verdict on one answer to a benchmark's question."""

    round: int
    checkpoint_id: str
    benchmark: str
    item: str
    category: str
    correct: bool
    reason: str
    message: str
    answer: str
    basis: str
    calls_json: str
    value: float | None
    detail_json: str
    identity: NotRequired[str | None]
    scored_at: NotRequired[datetime]


class BenchmarkItemRow(TypedDict):
    """A question that scores are of."""

    benchmark: str
    basis: str
    item: str
    category: str
    query: str
    functions_json: str
    gold_json: str


class CodeAliasRow(TypedDict):
    version: int
    round: int
    old_token: str
    new_token: str
    overlap: int


class LanguageRow(TypedDict):
    """How well a model keeps its language, at one moment of a training."""

    round: int
    moment: str
    perplexity: float
    code_mass: float
    text_sha: str


class GateRow(TypedDict):
    """A new checkpoint beside one opponent of the gate."""

    round: int
    checkpoint_id: str
    measure: str
    opponent: str
    opponent_id: str
    benchmark: str
    basis: str
    prompt: str
    before: float | None
    after: float | None
    delta: float | None
    low: float | None
    high: float | None
    num_items: int
    tolerance: float
    noise: float | None
    verdict: str
    message: str


class NoiseRow(TypedDict):
    """What two passes of one model over one benchmark differ by."""

    checkpoint_id: str
    benchmark: str
    basis: str
    points: float
    num_changed: int
    num_items: int
    round: int
    measured_at: datetime
    identity: NotRequired[str | None]


class RulerRow(TypedDict):
    """One part of what a score was measured with."""

    benchmark: str
    basis: str
    part: str
    sha: str


class VarietyRow(TypedDict):
    """How varied a new checkpoint is, by one figure."""

    round: int
    checkpoint_id: str
    source: str
    figure: str
    value: float
    first: float
    since: str
    allowed: float
    held: bool


class Batch(TypedDict, total=False):
    """Rows to append together, by table."""

    round: Sequence[RoundRow]
    stage: Sequence[StageRow]
    query: Sequence[QueryRow]
    draw: Sequence[DrawRow]
    tool: Sequence[ToolRow]
    tool_code: Sequence[ToolCodeRow]
    codebook: Sequence[CodebookRow]
    generation: Sequence[GenerationRow]
    vote: Sequence[VoteRow]
    verdict: Sequence[VerdictRow]
    judgement: Sequence[JudgementRow]
    sample: Sequence[SampleRow]
    training: Sequence[TrainingRow]
    example: Sequence[ExampleRow]
    checkpoint: Sequence[CheckpointRow]
    score: Sequence[ScoreRow]
    item_score: Sequence[ItemScoreRow]
    benchmark_item: Sequence[BenchmarkItemRow]
    code_alias: Sequence[CodeAliasRow]
    language: Sequence[LanguageRow]
    gate: Sequence[GateRow]
    noise: Sequence[NoiseRow]
    ruler: Sequence[RulerRow]
    variety: Sequence[VarietyRow]


def by_table(batch: Batch) -> Mapping[str, Sequence[Mapping[str, object]]]:
    """The batch for whoever treats all tables alike."""
    return cast("Mapping[str, Sequence[Mapping[str, object]]]", batch)


def merge(batches: Iterable[Batch]) -> Batch:
    """All rows of some batches as one batch."""
    merged: dict[str, list[Mapping[str, object]]] = {}
    for batch in batches:
        for table, rows in by_table(batch).items():
            merged.setdefault(table, []).extend(rows)
    return cast(Batch, merged)

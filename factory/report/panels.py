"""What a report asks of the ledger: one query a panel, and the chart of its rows.

`:round` in a query is the page's round (on the page over all rounds the latest), `:first` the
earliest round that a trend shows. The page prints each query with both filled in, ready for
`factory sql "…"`; so a query has no double quote, backtick or dollar sign before a bracket.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from factory.report.chart import Chart, Interval, Series, bars, columns, intervals, lines

Record = dict[str, Any]
Draw = Callable[[list[Record]], Chart | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One question. Example: Panel(id="funnel", title="Funnel", caption="…", sql="select …")."""

    id: str
    """Unique on a page."""
    title: str
    """Its heading."""
    caption: str
    """What the numbers are: unit, definition, source."""
    sql: str
    """One SELECT; every row has a place in a fixed order."""
    draw: Draw | None = None
    """Its chart; without one the table is shown."""
    turned: bool = False
    """Whether the shown table has a column for each row: for few rows of many columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Panels under one heading. Example: Section(title="Votes", panels=(VOTES, MARGINS))."""

    title: str
    """The heading."""
    panels: tuple[Panel, ...]
    """In reading order."""


ROUNDS = """
with training_end as (
  select round, avg(loss) as loss
  from (select *, max(step) over (partition by round) as last from training)
  where step > 0.9 * last
  group by round
), agreed as (
  select round, avg(votes / num_samples) as agreement
  from latest_vote
  group by round
), timed as (
  select
    round,
    sum(seconds) as seconds,
    max(detail_json ->> 'reason') filter (stage = 'gate') as reason,
    count(*) filter (stage = 'gate') > 0 as ended
  from stage
  group by round
), made as (
  select round, checkpoint_id, promoted
  from checkpoint
  where parent_id is not null
)
select
  round.round,
  round.checkpoint_id as parent,
  made.checkpoint_id as model,
  case
    when not coalesce(timed.ended, false) then 'open'
    when made.promoted then 'promoted'
    when made.promoted is null then 'not trained'
    else 'held'
  end as outcome,
  round_yield.drawn,
  round_yield.tools_ok,
  round_yield.called,
  round_yield.voted,
  round_yield.passed,
  round_yield.accepted,
  round_yield.rejected,
  round_yield.unjudged,
  round_yield.acceptance,
  agreed.agreement,
  training_end.loss,
  timed.seconds,
  timed.reason
from round
left join round_yield on round_yield.round = round.round
left join agreed on agreed.round = round.round
left join training_end on training_end.round = round.round
left join timed on timed.round = round.round
left join made on made.round = round.round
where round.round between :first and :round
order by round.round
"""
"""One row a round; loss is the mean of the last tenth of the steps."""

SCORES_OVER_ROUNDS = """
select
  checkpoint.round,
  score.benchmark,
  coalesce(score.unit, 'percent') as unit,
  arg_max(score.value, score.scored_at) as value,
  arg_max(score.low, score.scored_at) as low,
  arg_max(score.high, score.scored_at) as high,
  any_value(checkpoint.promoted) as promoted
from checkpoint
join score on score.checkpoint_id = checkpoint.checkpoint_id
where score.category = 'overall'
  and (checkpoint.round between :first and :round or checkpoint.parent_id is null)
  and score.round <= :round
group by
  checkpoint.round, checkpoint.checkpoint_id, score.benchmark, coalesce(score.unit, 'percent')
order by score.benchmark, checkpoint.round
"""


def fill(sql: str, bounds: Mapping[str, int]) -> str:
    """A query with its numbers in place of `:round` and `:first`."""
    return re.sub(r":(round|first)\b", lambda hit: str(bounds[hit[1]]), sql).strip()


# Charts of rows ----------------------------------------------------------------------------


def _bars(label: str, value: str, unit: str = "", total: str = "") -> Draw:
    """Bars of two columns; the column `total`, the same in each row, is the full width."""

    def draw(rows: list[Record]) -> Chart | None:
        whole = float(rows[0][total]) if rows and total else None
        return bars([(str(r[label]), float(r[value] or 0)) for r in rows], unit, whole)

    return draw


def _columns(label: str, values: tuple[str, ...], x_title: str) -> Draw:
    """Stacked columns of some columns over another."""

    def draw(rows: list[Record]) -> Chart | None:
        series = [Series(name=name, values=[float(r[name] or 0) for r in rows]) for name in values]
        return columns([_short(r[label]) for r in rows], series, x_title)

    return draw


def _lines(
    x: str, values: tuple[str, ...], *, bounds: tuple[float, float] | None = None, dots: bool = True
) -> Draw:
    """Lines of some columns over another, where there are two places at least."""

    def draw(rows: list[Record]) -> Chart | None:
        if len(rows) < 2:
            return None
        series = [Series(name=name, values=[_float(r[name]) for r in rows]) for name in values]
        return lines([_short(r[x]) for r in rows], series, x, bounds=bounds, dots=dots)

    return draw


def _pivoted_lines(name: str, value: str) -> Draw:
    """A line for each value of the column `name` over rounds, with a band of low to high."""

    def draw(rows: list[Record]) -> Chart | None:
        rounds = sorted({r["round"] for r in rows})
        if len(rounds) < 2:
            return None
        series = []
        for each in dict.fromkeys(r[name] for r in rows):
            at = {r["round"]: r for r in rows if r[name] == each}
            found = [at.get(number, {}) for number in rounds]
            series.append(
                Series(
                    name=str(each),
                    values=[_float(r.get(value)) for r in found],
                    low=[_float(r.get("low")) for r in found],
                    high=[_float(r.get("high")) for r in found],
                )
            )
        return lines([str(number) for number in rounds], series, "round")

    return draw


def _draw_percent(draw: Draw) -> Draw:
    """The picture of what is a percentage: other units have no place on its axis."""
    return lambda rows: draw([row for row in rows if row["unit"] == "percent"])


def _draw_scores(rows: list[Record]) -> Chart | None:
    keys = list(dict.fromkeys((r["benchmark"], r["category"]) for r in rows))
    found = {(r["benchmark"], r["category"], r["model"]): _interval(r, "percent") for r in rows}
    return intervals(
        [
            (_name_score(*key), [found.get((*key, "parent")), found.get((*key, "new"))])
            for key in keys
        ],
        ("parent", "new"),
    )


def _draw_changes(rows: list[Record]) -> Chart | None:
    return intervals(
        [(_name_score(r["benchmark"], r["category"]), [_interval(r, "points")]) for r in rows],
        ("change",),
    )


def _name_score(benchmark: str, category: str) -> str:
    return benchmark if category == "overall" else f"{benchmark}: {category}"


def _interval(row: Record, value: str) -> Interval:
    return Interval(value=row[value], low=row["low"], high=row["high"])


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# One round ---------------------------------------------------------------------------------

FACTS = """
select
  round.round,
  round.started_at,
  round.checkpoint_id as parent,
  made.checkpoint_id as model,
  made.promoted,
  gate.detail_json ->> 'reason' as outcome,
  round.recipe_name as recipe,
  round.seed,
  round.package_version as version,
  round.prompts_sha,
  round.rules_sha,
  round.recipe_sha
from round
left join stage as gate on gate.round = round.round and gate.stage = 'gate'
left join checkpoint as made on made.round = round.round and made.parent_id is not null
where round.round = :round
"""

FUNNEL = Panel(
    id="funnel",
    title="Funnel",
    caption="Queries that got this far: drawn, past the judgement of their tool documents (tools), "
    "called and voted on (called), with a winner (voted), past the rules about single samples "
    "(passed) and past those about the whole round (accepted).",
    sql="""
with yield as (
  select drawn, tools_ok as tools, called, voted, passed, accepted
  from round_yield
  where round = :round
)
select step, queries, (select drawn from yield) as drawn
from (unpivot yield on drawn, tools, called, voted, passed, accepted into name step value queries)
""",
    draw=_bars("step", "queries", total="drawn"),
)

REASONS = Panel(
    id="reasons",
    title="Why samples fell",
    caption="Samples by the reason they were rejected for, or not judged; the first that applies.",
    sql="""
select
  reason,
  status,
  min(stage) as stage,
  count(*) as samples,
  (select count(*) from draw where round = :round) as drawn
from outcome
join latest_judgement using (round, judgement)
where round = :round
  and status <> 'accepted'
group by reason, status
order by samples desc, reason
limit 24
""",
    draw=_bars("reason", "samples", total="drawn"),
)

RULES = Panel(
    id="rules",
    title="What the rules found",
    caption="Findings of every rule on every record, warnings and answers that lost the vote "
    "included; share is the share of drawn queries with at least one.",
    sql="""
select rule, samples, round(share, 3) as share, hits, reason, severity
from rule_yield
where round = :round
order by samples desc, rule, reason, severity
limit 40
""",
)

AGREEMENT = Panel(
    id="agreement",
    title="Agreement",
    caption="Queries by the votes of their largest class of equal answers, and what became of "
    "them. Entropy is that of the classes, in bits: 0 where all agree.",
    sql="""
select
  vote.votes,
  count(*) filter (sample.status = 'accepted') as accepted,
  count(*) filter (sample.status is distinct from 'accepted') as fell,
  round(avg(vote.entropy), 3) as entropy
from latest_vote as vote
left join (
  select round, query_id, status
  from outcome
  join latest_judgement using (round, judgement)
) as sample using (round, query_id)
where vote.round = :round
group by vote.votes
order by vote.votes
""",
    draw=_columns("votes", ("accepted", "fell"), "votes of the largest class"),
)

MARGINS = Panel(
    id="margins",
    title="Vote margin",
    caption="Queries by margin: votes of the first class less those of the second, over the "
    "samples. 1 is unanimous, 0 a tie.",
    sql="""
select round(margin, 2) as margin, sum(queries) as queries
from vote_margin
where round = :round
group by 1
order by 1
""",
    draw=_columns("margin", ("queries",), "margin"),
)

SCORES = Panel(
    id="scores",
    title="Scores by category",
    caption="Percent with a 95 % interval: of a category Wilson's, or the normal approximation "
    "where items are marked between right and wrong; of a benchmark as a whole (the mean of its "
    "categories) and of a perplexity (less is better) the one that was stored with the score.",
    sql="""
with basis as (
  select
    checkpoint_id, benchmark, coalesce(unit, 'percent') as unit, arg_max(basis, scored_at) as basis
  from score
  where round <= :round
  group by all
), model as (
  select checkpoint_id, 'parent' as model from round where round = :round
  union all
  select checkpoint_id, 'new' from checkpoint where round = :round and parent_id is not null
), category as (
  select
    model, benchmark, category, count(*) as n, avg(coalesce(value, correct::int)) as p,
    stddev_pop(value) as sd, 1.96 * 1.96 as zz
  from item_score
  join basis using (checkpoint_id, benchmark, basis)
  join model using (checkpoint_id)
  where unit = 'percent'
  group by model, benchmark, category
), scored as (
  select
    model, benchmark, category, n as items, 100 * p as percent,
    if(sd is null, 100 * (p + zz / (2 * n)) / (1 + zz / n), 100 * p) as middle,
    if(
      sd is null,
      196 * sqrt(p * (1 - p) / n + zz / (4 * n * n)) / (1 + zz / n),
      196 * sd / sqrt(n)
    ) as half
  from category
)
select
  benchmark, category, model, items, percent, middle - half as low, middle + half as high,
  'percent' as unit
from scored
union all by name
select
  benchmark, category, model, num_items as items, value as percent, low, high,
  basis.unit
from score
join basis using (checkpoint_id, benchmark, basis)
join model using (checkpoint_id)
where not exists (
  select 1
  from scored
  where scored.benchmark = score.benchmark and scored.category = score.category
)
order by benchmark, category <> 'overall', category, model desc
""",
    draw=_draw_percent(_draw_scores),
)

PAIRED = """
with made as (
  select checkpoint_id, parent_id
  from checkpoint
  where round = :round and parent_id is not null
), measured as (
  select benchmark, arg_max(basis, scored_at) as basis
  from score
  join made using (checkpoint_id)
  where round <= :round and coalesce(unit, 'percent') = 'percent'
  group by benchmark
), paired as (
  select
    after.benchmark, after.category, after.item, after.basis,
    before.correct as was_right, after.correct as is_right,
    coalesce(after.value, after.correct::int) - coalesce(before.value, before.correct::int)
      as gain,
    before.reason as reason_before, after.reason as reason_after,
    before.answer as answer_before, after.answer as answer_after
  from made
  join item_score as after on after.checkpoint_id = made.checkpoint_id
  join measured on measured.benchmark = after.benchmark and measured.basis = after.basis
  join item_score as before
    on before.checkpoint_id = made.parent_id
    and before.benchmark = after.benchmark
    and before.basis = after.basis
    and before.item = after.item
)"""
"""Items as judged for the round's model and its parent, with the same prompts and lengths."""

CHANGES = Panel(
    id="changes",
    title="Change by category",
    caption="The new model less its parent on the same items, in points, with a 95 % interval of "
    "paired differences (normal approximation): gained items turned right or have a better mark, "
    "lost ones turned wrong or have a worse one.",
    sql=PAIRED
    + """, counted as (
  select
    benchmark, category, count(*) as items,
    count(*) filter (gain > 0) as gained,
    count(*) filter (gain < 0) as lost,
    100 * avg(gain) as points,
    196 * stddev_pop(gain) / sqrt(count(*)) as half
  from paired
  group by benchmark, category
)
select
  benchmark, category, items, gained, lost, points, points - half as low, points + half as high
from counted
order by benchmark, category
""",
    draw=_draw_changes,
)

LOSS = Panel(
    id="loss",
    title="Loss",
    caption="Training loss by optimizer step; of long trainings the means of 120 stretches.",
    sql="""
with stretch as (
  select *, ntile(120) over (order by step) as part
  from training
  where round = :round
)
select max(step) as step, avg(loss) as loss, avg(learning_rate) as learning_rate
from stretch
group by part
order by step
""",
    draw=_lines("step", ("loss",), dots=False),
)

EXAMPLES = Panel(
    id="examples",
    title="What it was trained on",
    caption="Examples made of this round's accepted samples, by kind; replay is not counted.",
    sql="""
select kind, count(*) as examples
from example
where round = :round
group by kind
order by examples desc, kind
""",
    draw=_bars("kind", "examples"),
)

TOOLS = Panel(
    id="tools",
    title="Tools shown",
    caption="Tool documents that the round's samples were answered with: how many different ones, "
    "and the mean over them of arguments, of the share of arguments that are required, and of the "
    "words of the description.",
    sql="""
with shown as (
  select status, unnest(try_cast(tools_json as json[])) as tool
  from outcome
  join latest_judgement using (round, judgement)
  where round = :round
), document as (
  select
    tool ->> 'id' as id,
    bool_or(status = 'accepted') as accepted,
    any_value(tool -> 'document') as document
  from shown
  group by 1
), measured as (
  select
    accepted,
    document ->> 'name' as name,
    len(json_keys(document -> 'arguments' -> 'properties')) as arguments,
    json_array_length(document -> 'arguments' -> 'required') as required,
    len(string_split(document ->> 'description', ' ')) as words
  from document
)
select
  case when accepted then 'accepted' else 'rejected only' end as samples,
  count(*) as documents,
  count(distinct name) as names,
  round(avg(arguments), 2) as arguments,
  round(avg(required / nullif(arguments, 0)), 2) as required_share,
  round(avg(words), 1) as description_words
from measured
group by accepted
order by accepted desc
""",
    turned=True,
)

ARGUMENT_TYPES = Panel(
    id="types",
    title="Argument types",
    caption="Type words of the arguments of the tools of accepted samples, each document once.",
    sql="""
with shown as (
  select unnest(try_cast(tools_json as json[])) as tool
  from accepted
  where round = :round
), document as (
  select tool ->> 'id' as id, any_value(tool -> 'document') as document
  from shown
  group by 1
), argument as (
  select unnest(map_values(try_cast(
    document -> 'arguments' -> 'properties' as map(varchar, json)
  ))) as argument
  from document
)
select left(coalesce(argument ->> 'type', 'none'), 40) as type, count(*) as arguments
from argument
group by 1
order by arguments desc, type
limit 12
""",
    draw=_bars("type", "arguments"),
)

CALLS = Panel(
    id="calls",
    title="Calls in an answer",
    caption="Accepted samples by the number of calls that answer them.",
    sql="""
select num_calls as calls, count(*) as samples
from outcome
join latest_judgement using (round, judgement)
where round = :round
  and status = 'accepted'
group by 1
order by 1
limit 40
""",
    draw=_columns("calls", ("samples",), "calls"),
)

LENGTHS = Panel(
    id="lengths",
    title="Length of requests",
    caption="Drawn requests by their number of words, in steps of four; the last step is open.",
    sql="""
with counted as (
  select least(19, len(string_split(trim(left(asked.text, 20000)), ' ')) // 4) as step, status
  from draw
  join (select query_id, any_value(text) as text from query group by 1) as asked using (query_id)
  left join (
    select round, query_id, status
    from outcome
    join latest_judgement using (round, judgement)
  ) as sample using (round, query_id)
  where draw.round = :round
)
select
  4 * place.step as words,
  count(*) filter (status = 'accepted') as accepted,
  count(*) filter (status <> 'accepted' or status is null and counted.step is not null) as fell
from (
  select unnest(range((select min(step) from counted), (select max(step) + 1 from counted))) as step
) as place
left join counted on counted.step = place.step
group by place.step
order by place.step
""",
    draw=_columns("words", ("accepted", "fell"), "words, from"),
)

CODES = Panel(
    id="codes",
    title="Codes",
    caption="Did the model propose the code that the coder assigned? full: yes; prefix: the first "
    "level agrees; none. A signal, never a label.",
    sql="""
select agreement, count(*) as tools
from code_proposal
where round = :round
group by agreement
order by agreement
""",
    draw=_bars("agreement", "tools"),
)

CODEBOOK = Panel(
    id="codebook",
    title="Codebook",
    caption="The codebook after this round: tools that shared a code before assignment "
    "(collisions), tools that assignment moved to a free code, the 99th percentile of quantisation "
    "errors, and the mean entropy of token use over levels, in bits.",
    sql="""
select
  version, num_tools as tools, levels, size,
  collisions_before as collisions, moved, outlier_error, usage_entropy,
  (select count(*) from tool_code where round = :round) as new_codes,
  (select count(*) from tool_code where round = :round and ood) as far_from_code
from codebook
where round <= :round
order by round desc, version desc
limit 1
""",
    turned=True,
)

TIMING = Panel(
    id="time",
    title="Time by stage",
    caption="Seconds of wall time; a stage that ran more than once is the sum.",
    sql="""
select
  stage,
  sum(seconds) as seconds,
  count(*) as runs,
  (select sum(seconds) from stage where round = :round) as total
from stage
where round = :round
group by stage
order by min(started_at), stage
limit 40
""",
    draw=_bars("stage", "seconds", unit=" s", total="total"),
)

ANSWERS = Panel(
    id="answers",
    title="What the model wrote",
    caption="Raw answers by stage: tokens a second are over the wall time of sampling, all stages "
    "together; cut is the share that reached its token limit.",
    sql="""
select
  stage,
  count(*) as answers,
  count(distinct text) as different,
  sum(num_tokens) as tokens,
  round(avg(num_tokens), 1) as mean_tokens,
  round(avg((finish_reason = 'length')::int), 3) as cut,
  round(sum(num_tokens) / (
    select sum(seconds) from stage where round = :round and stage = 'sample'
  ), 1) as tokens_a_second
from generation
where round = :round
group by stage
order by stage
""",
    turned=True,
)

# Variety, over rounds ----------------------------------------------------------------------

WORDS = """
with asked as (
  select
    round,
    query_id,
    regexp_extract_all(lower(left(query, 2000)), '[\\p{L}\\p{N}]+') as words
  from accepted
  where round between :first and :round
)"""

VARIETY = Panel(
    id="variety",
    title="Variety of requests",
    caption="distinct_1 and distinct_2: different words and word pairs over all words and pairs "
    "of the accepted requests; both fall as a round grows. self_similarity: mean Jaccard "
    "similarity of the word sets of two requests, over all pairs of at most 200 requests chosen by "
    "hash.",
    sql=WORDS
    + """, unigram as (
  select round, unnest(words) as gram
  from asked
), bigram as (
  select round, unnest(list_transform(
    range(1, len(words)), lambda i: words[i] || ' ' || words[i + 1]
  )) as gram
  from asked
), chosen as (
  select round, query_id, list_distinct(words) as words
  from asked
  qualify row_number() over (partition by round order by md5(query_id)) <= 200
), pair as (
  select
    a.round,
    len(list_intersect(a.words, b.words)) as common,
    len(a.words) + len(b.words) as each
  from chosen as a
  join chosen as b on a.round = b.round and a.query_id < b.query_id
)
select
  round,
  requests,
  distinct_1,
  distinct_2,
  self_similarity
from (select round, count(*) as requests from asked group by round)
left join (
  select round, count(distinct gram) / count(*) as distinct_1 from unigram group by round
) using (round)
left join (
  select round, count(distinct gram) / count(*) as distinct_2 from bigram group by round
) using (round)
left join (
  select round, avg(common / nullif(each - common, 0)) as self_similarity from pair group by round
) using (round)
order by round
""",
    draw=_lines("round", ("distinct_1", "distinct_2", "self_similarity"), bounds=(0, 1)),
)

CALLED = """
with called as (
  select round, query_id, unnest(try_cast(calls_json as json[])) ->> 'name' as tool
  from accepted
  where round between :first and :round
), used as (
  select round, left(tool, 80) as tool, count(*) as calls
  from called
  group by 1, 2
)"""

TOOL_USE = Panel(
    id="tool-use",
    title="Tools that are called",
    caption="The accepted calls' tools by name, the most called first.",
    sql=CALLED.replace("between :first and", "=")
    + """
select tool, calls, (select sum(calls) from used) as total
from used
order by calls desc, tool
limit 12
""",
    draw=_bars("tool", "calls", total="total"),
)

TOOL_VARIETY = Panel(
    id="tool-variety",
    title="Variety of tools",
    caption="distinct_tools: different tool names over accepted calls. evenness: entropy of the "
    "calls over tool names, over its maximum (the logarithm of the number of names); 1 where each "
    "is called as often. distinct_words: different words over all words of the names.",
    sql=CALLED
    + """, share as (
  select round, calls / sum(calls) over (partition by round) as p, calls
  from used
), word as (
  select round, unnest(regexp_extract_all(lower(tool), '[\\p{L}\\p{N}]+')) as word
  from used
)
select
  round,
  tools,
  calls,
  distinct_tools,
  entropy_bits,
  evenness,
  distinct_words
from (
  select
    round,
    count(*) as tools,
    sum(calls) as calls,
    count(*) / sum(calls) as distinct_tools,
    -sum(p * log2(p)) as entropy_bits,
    -sum(p * log2(p)) / nullif(log2(count(*)), 0) as evenness
  from share
  group by round
)
left join (
  select round, count(distinct word) / count(*) as distinct_words from word group by round
) using (round)
order by round
""",
    draw=_lines("round", ("distinct_tools", "evenness", "distinct_words"), bounds=(0, 1)),
)

DRIFT = Panel(
    id="drift",
    title="Overlap and drift",
    caption="known_tools, known_words: share of a round's tool names and words that an earlier "
    "round shown here has. drift: Jensen-Shannon divergence, in bits, of the words of a round's "
    "accepted requests from those of the round before; 0 is the same, 1 nothing in common. Small "
    "rounds differ by chance alone.",
    sql=WORDS
    + """, word as (
  select round, unnest(words) as word
  from asked
), counted as (
  select round, word, count(*) / sum(count(*)) over (partition by round) as p
  from word
  group by round, word
), tool as (
  select distinct round, unnest(try_cast(calls_json as json[])) ->> 'name' as tool
  from accepted
  where round between :first and :round
), known_word as (
  select round, avg((round > first)::int) as known_words
  from (select round, min(round) over (partition by word) as first from counted)
  group by round
), known_tool as (
  select round, avg((round > first)::int) as known_tools
  from (select round, min(round) over (partition by tool) as first from tool)
  group by round
), neighbour as (
  select round, lag(round) over (order by round) as before
  from (select distinct round from counted)
), aligned as (
  select round, word, sum(p) as p, sum(q) as q
  from (
    select neighbour.round, word, p, 0 as q
    from counted
    join neighbour on neighbour.round = counted.round and neighbour.before is not null
    union all
    select neighbour.round, word, 0 as p, p as q
    from counted
    join neighbour on neighbour.before = counted.round
  )
  group by round, word
), drifted as (
  select
    round,
    sum(
      case when p > 0 then p * log2(2 * p / (p + q)) else 0 end
      + case when q > 0 then q * log2(2 * q / (p + q)) else 0 end
    ) / 2 as drift
  from aligned
  group by round
)
select round, known_tools, known_words, drift
from known_word
left join known_tool using (round)
left join drifted using (round)
order by round
""",
    draw=_lines("round", ("known_tools", "known_words", "drift"), bounds=(0, 1)),
)

# Samples to read ---------------------------------------------------------------------------

FALLEN = Panel(
    id="fallen",
    title="Samples that fell",
    caption="Up to three of each reason, chosen by a hash of their id; long texts are cut. "
    "factory show with the id shows one whole.",
    sql="""
select
  reason, query_id, rule, left(path, 200) as path,
  left(query, 400) as query, left(message, 400) as message,
  count(*) over (partition by reason) as total
from rejected
where round = :round
qualify row_number() over (partition by reason order by md5(query_id)) <= 3
order by total desc, reason, md5(query_id)
limit 45
""",
)

KEPT = Panel(
    id="kept",
    title="Samples that were kept",
    caption="Eight, chosen by a hash of their id; long texts are cut.",
    sql="""
select query_id, agreement, left(query, 400) as query, left(calls_json, 800) as calls
from accepted
where round = :round
order by md5(query_id)
limit 8
""",
)

FLIPS = Panel(
    id="flips",
    title="Items that changed",
    caption="Up to five a benchmark and direction, chosen by a hash of their id; long texts are "
    "cut. Query and gold are those that were scored.",
    sql=PAIRED
    + """, asked as (
  select benchmark, basis, item, any_value(query) as query, any_value(gold_json) as gold
  from benchmark_item
  group by benchmark, basis, item
)
select
  benchmark, category, item,
  left(coalesce(query, ''), 800) as query,
  left(coalesce(gold, ''), 800) as gold,
  case when is_right then 'right' else 'wrong' end as now,
  left(answer_before, 800) as answer_before,
  left(answer_after, 800) as answer_after,
  reason_before,
  reason_after,
  count(*) over (partition by benchmark, is_right) as total
from paired
left join asked using (benchmark, basis, item)
where was_right <> is_right
qualify row_number() over (partition by benchmark, is_right order by md5(item)) <= 5
order by benchmark, is_right, md5(item)
limit 60
""",
)

ROUND_SECTIONS = (
    Section(title="Yield", panels=(FUNNEL, REASONS, RULES)),
    Section(title="Votes", panels=(AGREEMENT, MARGINS)),
    Section(title="Scores", panels=(SCORES, CHANGES)),
    Section(title="Training", panels=(LOSS, EXAMPLES)),
    Section(
        title="Tools and codes",
        panels=(TOOL_USE, ARGUMENT_TYPES, CALLS, LENGTHS, TOOLS, CODES, CODEBOOK),
    ),
    Section(title="Variety and drift", panels=(VARIETY, TOOL_VARIETY, DRIFT)),
    Section(title="Time", panels=(TIMING, ANSWERS)),
)

# All rounds --------------------------------------------------------------------------------

HISTORY = Panel(
    id="rounds",
    title="Rounds",
    caption="agreement: mean share of samples in the largest class. loss: mean of the last tenth "
    "of the training's steps.",
    sql=ROUNDS,
)

ACCEPTANCE = Panel(
    id="acceptance",
    title="Acceptance and agreement",
    caption="Accepted over drawn, and the mean share of samples that agree with the largest class.",
    sql="""
select
  round_yield.round,
  round_yield.acceptance,
  agreed.agreement
from round_yield
left join (
  select round, avg(votes / num_samples) as agreement from latest_vote group by round
) as agreed on agreed.round = round_yield.round
where round_yield.round between :first and :round
order by round_yield.round
""",
    draw=_lines("round", ("acceptance", "agreement"), bounds=(0, 1)),
)

SCORE_HISTORY = Panel(
    id="score-history",
    title="Scores",
    caption="Percent of each round's model with its stored 95 % interval; round 0 is the model "
    "that was given. A held model is shown too; the next round starts from its parent. The chart "
    "has the first four benchmarks, the table all, with perplexities, of which less is better.",
    sql=SCORES_OVER_ROUNDS,
    draw=_draw_percent(_pivoted_lines("benchmark", "value")),
)

LOSS_HISTORY = Panel(
    id="loss-history",
    title="Loss at the end of training",
    caption="Mean of the last tenth of the steps.",
    sql=f"""
select round, loss
from ({ROUNDS.strip()})
where loss is not null
order by round
""",
    draw=_lines("round", ("loss",)),
)

REASON_HISTORY = Panel(
    id="reason-history",
    title="Why samples fell, over rounds",
    caption="Share of drawn queries that were rejected for each of the four commonest reasons.",
    sql="""
with counted as (
  select round, reason, count(*) as samples
  from rejected
  where round between :first and :round
  group by round, reason
), top as (
  select reason, sum(samples) as total
  from counted
  group by reason
  order by total desc, reason
  limit 4
)
select counted.round, counted.reason, counted.samples / round_yield.drawn as share
from counted
join top using (reason)
join round_yield on round_yield.round = counted.round
order by top.total desc, counted.reason, counted.round
""",
    draw=_pivoted_lines("reason", "share"),
)

TIME_HISTORY = Panel(
    id="time-history",
    title="Time",
    caption="Seconds of wall time: sampling, training, scoring, and all stages together.",
    sql="""
select
  round,
  sum(seconds) filter (stage = 'sample') as sampling,
  sum(seconds) filter (stage = 'train') as training,
  sum(seconds) filter (starts_with(stage, 'score')) as scoring,
  sum(seconds) as everything
from stage
where round between :first and :round
group by round
order by round
""",
    draw=_lines("round", ("sampling", "training", "scoring", "everything")),
)

INDEX_SECTIONS = (
    Section(
        title="Over the rounds",
        panels=(ACCEPTANCE, SCORE_HISTORY, REASON_HISTORY, LOSS_HISTORY, TIME_HISTORY),
    ),
    Section(title="Variety and drift", panels=(VARIETY, TOOL_VARIETY, DRIFT)),
)

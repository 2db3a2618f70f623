-- The ledger's views: public API, columns are only added. Each view sees the latest judgement of
-- each round. They are stored in the ledger file, so any DuckDB client has them; `factory sql`
-- defines them once more over the file and the rows of a running round.

create or replace view latest_judgement as
select
  round,
  max(judgement) as judgement
from sample
group by round;
comment on view latest_judgement is
'The judgement that counts, per round. A re-judgement is appended whole, so it counts at once.';

create or replace view outcome as
with fallen as (
  select distinct on (round, judgement, query_id)
    round,
    judgement,
    query_id,
    reason,
    rule,
    path,
    message
  from verdict
  where severity = 'reject'
    and starts_with(rule, 'round/')
  order by round, judgement, query_id, rule, subject, path
)
select
  sample.* exclude (made_by, made_of_json) replace (
    case when fallen.rule is null then sample.status else 'rejected' end as status,
    case when fallen.rule is null then sample.stage else 'round' end as stage,
    coalesce(fallen.reason, sample.reason) as reason,
    coalesce(fallen.rule, sample.rule) as rule,
    coalesce(fallen.path, sample.path) as path,
    coalesce(fallen.message, sample.message) as message
  )
from sample
left join fallen
  on fallen.round = sample.round
  and fallen.judgement = sample.judgement
  and fallen.query_id = sample.query_id
  and sample.status = 'accepted'
where coalesce(sample.made_by, '') = '';
comment on view outcome is
'Each sample of a drawn request under each judgement, after the rules over the whole round: what passed the rules about itself and fell for one of those is rejected at stage round.';

create or replace view latest_vote as
select vote.*
from vote
left join latest_judgement
  on latest_judgement.round = vote.round
where coalesce(vote.judgement, 1) = coalesce(latest_judgement.judgement, 1);
comment on view latest_vote is
'The votes of the judgement that counts.';

create or replace view accepted as
select
  outcome.round,
  outcome.query_id,
  (select any_value(text) from query where query.query_id = outcome.query_id) as query,
  outcome.tools_json,
  outcome.calls_json,
  outcome.agreement
from outcome
join latest_judgement using (round, judgement)
where outcome.status = 'accepted';
comment on view accepted is
'Samples that are kept: the query, the tools shown, the winning calls, and the share of samples that voted for them.';

create or replace view rejected as
select
  outcome.round,
  outcome.query_id,
  (select any_value(text) from query where query.query_id = outcome.query_id) as query,
  outcome.stage,
  outcome.reason,
  outcome.rule,
  outcome.path,
  outcome.message,
  outcome.agreement
from outcome
join latest_judgement using (round, judgement)
where outcome.status = 'rejected';
comment on view rejected is
'Samples that fell: at which stage, by which rule, for which reason, and where in the record.';

create or replace view made as
select
  sample.round,
  sample.judgement,
  sample.query_id,
  (select any_value(text) from query where query.query_id = sample.query_id) as query,
  sample.made_by,
  sample.made_of_json,
  sample.status,
  sample.stage,
  sample.reason,
  sample.rule,
  sample.path,
  sample.message,
  sample.tools_json,
  sample.calls_json,
  coalesce(label.answer, '') as answer
from sample
join latest_judgement using (round, judgement)
left join (
  select round, query_id, any_value(text) as answer
  from generation
  where stage = 'label'
  group by round, query_id
) as label using (round, query_id)
where sample.made_by <> '';
comment on view made is
'Samples that rounds made of accepted ones, which no other view counts: made_by says how (join, values, …), made_of_json of which requests; status, and where and why one fell, as in outcome; answer is what is to be said where nothing is to be called.';

create or replace view rule_yield as
select
  verdict.round,
  verdict.rule,
  verdict.reason,
  verdict.severity,
  count(*) as hits,
  count(distinct verdict.query_id) as samples,
  count(distinct verdict.query_id) / any_value(drawn.drawn) as share
from verdict
join latest_judgement using (round, judgement)
left join (select round, count(*) as drawn from draw group by round) as drawn
  on drawn.round = verdict.round
anti join (select round, query_id from sample where made_by <> '') as made_sample
  on made_sample.round = verdict.round
  and made_sample.query_id = verdict.query_id
group by verdict.round, verdict.rule, verdict.reason, verdict.severity;
comment on view rule_yield is
'How often each rule fired: hits (findings), samples (queries with at least one), share (samples / drawn).';

create or replace view round_yield as
with drawn as (
  select round, count(*) as drawn
  from draw
  group by round
),
finished as (
  select
    round,
    count(*) filter (outcome.stage not in ('draw', 'tools')) as tools_ok,
    count(*) filter (outcome.status = 'accepted') as accepted,
    count(*) filter (outcome.status = 'rejected') as rejected,
    count(*) filter (outcome.status = 'accepted' or outcome.stage = 'round') as passed
  from outcome
  join latest_judgement using (round, judgement)
  group by round
),
voted as (
  select
    round,
    count(distinct query_id) as called,
    count(distinct query_id) filter (winner is not null) as voted
  from latest_vote
  group by round
)
select
  drawn.round,
  drawn.drawn,
  coalesce(finished.tools_ok, 0) as tools_ok,
  coalesce(voted.called, 0) as called,
  coalesce(voted.voted, 0) as voted,
  coalesce(finished.accepted, 0) as accepted,
  coalesce(finished.rejected, 0) as rejected,
  drawn.drawn - coalesce(finished.accepted, 0) - coalesce(finished.rejected, 0) as unjudged,
  coalesce(finished.accepted, 0) / drawn.drawn as acceptance,
  coalesce(finished.passed, 0) as passed
from drawn
left join finished on finished.round = drawn.round
left join voted on voted.round = drawn.round;
comment on view round_yield is
'The funnel, in queries: tools_ok got past stages draw and tools, called has a vote, voted has a winner, unjudged is neither accepted nor rejected (not finished yet, or never judged), acceptance = accepted / drawn, passed is what the rules about single samples accept, before those over the round.';

create or replace view logged as
with found as (
  select
    round,
    query_id,
    bool_or(severity = 'reject') as falls,
    min_by(rule, (severity <> 'reject')::int) as rule,
    min_by(message, (severity <> 'reject')::int) as message
  from verdict join latest_judgement using (round, judgement)
  where subject = 'logged' and (severity = 'reject' or starts_with(rule, 'log/'))
  group by round, query_id
)
select
  generation.round,
  generation.query_id,
  (select any_value(text) from query where query.query_id = generation.query_id) as query,
  json_extract(generation.text, '$.calls')::varchar as calls_json,
  case
    when found.falls then 'rejected'
    when found.rule = 'log/differs' then 'differs'
    when found.rule = 'log/unconfirmed' then 'unconfirmed'
    when latest_vote.winner is not null then 'agrees'
    else 'unjudged'
  end as status,
  coalesce(found.rule, '') as rule,
  coalesce(found.message, '') as message
from generation
left join found using (round, query_id)
left join latest_vote using (round, query_id)
where generation.stage = 'log'
  and json_array_length(json_extract(generation.text, '$.calls')) > 0;
comment on view logged is
'The calls that a log has beside a request, which neither vote nor teach: rejected by a rule, agrees with or differs from the answer that won the vote, unconfirmed where none won, unjudged where it did not come to a vote.';

create or replace view code_proposal as
select
  generation.round,
  generation.query_id,
  tool_code.tool_id,
  generation.text as proposed,
  tool_code.code as assigned,
  case
    when generation.text = tool_code.code then 'full'
    when starts_with(tool_code.code, split_part(generation.text, '>', 1) || '>') then 'prefix'
    else 'none'
  end as agreement
from generation
join tool_code
  on tool_code.tool_id = generation.subject
  and tool_code.round = generation.round
where generation.stage = 'propose';
comment on view code_proposal is
'The code that the model proposed for a new document beside the one the coder assigned: full, prefix (the first level agrees) or none. A signal, never a label.';

create or replace view code_drift as
select
  version,
  any_value(round) as round,
  old_token as token,
  sum(overlap) as tools,
  coalesce(sum(overlap) filter (new_token = old_token), 0) as kept,
  kept / tools as share,
  arg_max(new_token, overlap) as most
from code_alias
group by version, old_token;
comment on view code_drift is
'Per codebook whose codes were made anew, each token of the one before: the tools that had it, how many still have it (kept, share), and the token that most of them have now.';

create or replace view vote_margin as
select
  round,
  margin,
  votes,
  count(*) as queries
from latest_vote
group by round, margin, votes;
comment on view vote_margin is
'Queries by vote margin ((first - second) / samples) and votes of the largest class.';

create or replace view calibration as
with curve as (
  select
    round,
    detail_json,
    unnest(from_json(
      json_extract(detail_json, '$.levels'),
      '[{"votes": "integer", "kept": "integer", "right": "integer", "low": "double"}]'
    )) as level
  from stage
  where stage = 'calibrate'
)
select
  round,
  json_extract_string(detail_json, '$.benchmark') as benchmark,
  cast(json_extract(detail_json, '$.wanted') as double) as wanted,
  cast(json_extract(detail_json, '$.minimum') as integer) as minimum,
  cast(json_extract(detail_json, '$.reached') as boolean) as reached,
  cast(json_extract(detail_json, '$.items') as integer) as items,
  level.votes,
  level.kept,
  level."right" as num_right,
  level."right" / nullif(level.kept, 0) as precision,
  level.low
from curve;
comment on view calibration is
'By the votes that a label needs: how many of the dev set''s items (items) the model that a round began with would keep (kept), how many of those labels are right (num_right, precision) and at least, one-sided 90 % (low, in percent); and the minimum chosen for the precision wanted, which some number of votes reached or none did.';

create or replace view calibration_margin as
with answered as (
  select
    round,
    unnest(from_json(
      json_extract(detail_json, '$.margins'),
      '[{"votes": "integer", "margin": "double", "items": "integer", "right": "integer"}]'
    )) as class
  from stage
  where stage = 'calibrate'
)
select
  round,
  class.votes,
  class.margin,
  class.items,
  class."right" as num_right,
  class."right" / class.items as precision
from answered;
comment on view calibration_margin is
'The same questions by the votes of the largest class of the first answers and its margin ((first - second) / samples): how many there are (items), and how many of their labels are right (num_right, precision).';

create or replace view judgement_change as
select
  later.round,
  later.judgement,
  later.query_id,
  former.status as status_before,
  former.reason as reason_before,
  later.status as status_after,
  later.reason as reason_after,
  later.message
from outcome as later
join outcome as former
  on former.round = later.round
  and former.query_id = later.query_id
  and former.judgement = later.judgement - 1
where former.status is distinct from later.status
  or former.reason is distinct from later.reason;
comment on view judgement_change is
'What each re-judgement of a round changed: samples with another status or reason than the judgement before it gave them.';

create or replace view round_score as
with compared as (
  select distinct
    round,
    parent_id,
    checkpoint_id as new_id
  from checkpoint
  union all
  select
    round,
    checkpoint_id,
    null
  from round
  where round not in (select round from checkpoint where parent_id is not null)
),
latest as (
  select
    compared.round,
    compared.new_id,
    if(score.checkpoint_id = compared.new_id, 'new', 'parent') as model,
    score.checkpoint_id,
    score.benchmark,
    score.category,
    score.basis,
    coalesce(any_value(score.unit), 'percent') as unit,
    arg_max(score.value, score.scored_at) as value,
    arg_max(score.low, score.scored_at) as low,
    arg_max(score.high, score.scored_at) as high,
    arg_max(score.num_items, score.scored_at) as num_items,
    max(score.scored_at) as scored_at
  from compared
  join score
    on score.checkpoint_id in (compared.new_id, compared.parent_id)
    and score.round <= compared.round
  group by all
),
chosen as (
  -- Both models on the same questions and prompts where that was ever measured, else the latest.
  select
    round,
    new_id,
    benchmark,
    category,
    basis
  from latest
  group by round, new_id, benchmark, category, basis
  qualify row_number() over (
    partition by round, new_id, benchmark, category
    order by count(*) desc, max(scored_at) desc
  ) = 1
)
select
  latest.round,
  latest.benchmark,
  latest.category,
  latest.model,
  latest.checkpoint_id,
  latest.unit,
  latest.value,
  latest.low,
  latest.high,
  latest.num_items,
  latest.basis,
  latest.new_id
from latest
join chosen
  on chosen.round = latest.round
  and chosen.new_id is not distinct from latest.new_id
  and chosen.benchmark = latest.benchmark
  and chosen.category = latest.category
  and chosen.basis is not distinct from latest.basis;
comment on view round_score is
'Scores of the model that each round started from (parent) and of the one it made (new), as last measured on the same questions and prompts up to that round: percent or perplexity, with the 95 % interval where it is stored.';

create or replace view round_delta as
select
  round,
  benchmark,
  category,
  any_value(value) filter (model = 'parent') as before,
  any_value(value) filter (model = 'new') as after,
  after - before as delta,
  new_id as checkpoint_id
from round_score
where new_id is not null
group by round, new_id, benchmark, category;
comment on view round_delta is
'Scores (in percent; language: perplexity, where less is better) of each round''s checkpoint (after) and of its parent (before), as last measured on the same questions and prompts up to that round; null where never measured.';

create or replace view lineage as
select
  checkpoint.checkpoint_id,
  checkpoint.parent_id,
  checkpoint.round,
  checkpoint.promoted,
  checkpoint.fingerprint,
  round_delta.before as home_before,
  round_delta.after as home_after
from checkpoint
left join round_delta
  on round_delta.checkpoint_id = checkpoint.checkpoint_id
  and round_delta.round = checkpoint.round
  and round_delta.benchmark = 'home'
  and round_delta.category = 'overall';
comment on view lineage is
'Every checkpoint, the one it was trained from, whether it was promoted, and the home benchmark in percent before and after.';

create or replace view latest_item as
select *
from item_score
qualify scored_at is not distinct from max(scored_at) over (
  partition by checkpoint_id, benchmark, basis
);
comment on view latest_item is
'The judged items of each checkpoint''s latest score on a benchmark: item_score keeps those of every scoring.';

create or replace view item_flip as
with judged as (
  select
    checkpoint_id,
    benchmark,
    basis,
    item,
    any_value(category) as category,
    any_value(correct) as correct,
    any_value(reason) as reason,
    any_value(message) as message,
    any_value(answer) as answer,
    any_value(value) as value
  from latest_item
  group by checkpoint_id, benchmark, basis, item
),
asked as (
  select
    benchmark,
    basis,
    item,
    any_value(query) as query,
    any_value(gold_json) as gold_json
  from benchmark_item
  group by benchmark, basis, item
)
select
  made.round,
  made.checkpoint_id,
  after.benchmark,
  after.category,
  after.item,
  case
    when after.correct <> before.correct then if(after.correct, 'right', 'wrong')
    else if(after.value > before.value, 'better', 'worse')
  end as flip,
  after.reason,
  after.message,
  asked.query,
  asked.gold_json,
  before.answer as answer_before,
  after.answer,
  before.value as value_before,
  after.value
from (select distinct round, checkpoint_id, parent_id from checkpoint) as made
join judged as after
  on after.checkpoint_id = made.checkpoint_id
join judged as before
  on before.checkpoint_id = made.parent_id
  and before.benchmark = after.benchmark
  and before.basis = after.basis
  and before.item = after.item
  and (before.correct <> after.correct or before.value <> after.value)
left join asked
  on asked.benchmark = after.benchmark
  and asked.basis = after.basis
  and asked.item = after.item;
comment on view item_flip is
'Benchmark items that a checkpoint turned right or wrong against its parent, or whose mark it made better or worse: why, the query, the gold, both answers, and both marks (0 to 1, null where there is only right and wrong).';

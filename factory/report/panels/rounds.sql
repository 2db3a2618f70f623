-- title = "Rounds"
-- caption = """
-- agreement: mean share of samples in the largest class. loss: mean of the last tenth of the
-- training's steps.
-- """

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

-- title = "Change by category"
-- caption = """
-- The new model less its parent on the same items, in points, with a 95 % interval, a bootstrap
-- over paired items as factory score prints it: gained items turned right or have a better mark,
-- lost ones turned wrong or have a worse one. An average, such as overall, weighs its categories.
-- """
-- chart = { kind = "changes" }

with judged as (
  select
    score.benchmark, latest_item.category, item, model,
    any_value(coalesce(latest_item.value, correct::int)) as mark
  from round_score as score
  join latest_item using (checkpoint_id, benchmark, basis)
  where score.round = :round
    and score.category = 'overall'
    and unit = 'percent'
  group by all
), paired as (
  select
    benchmark, category, item,
    any_value(mark) filter (model = 'new') - any_value(mark) filter (model = 'parent') as gain
  from judged
  group by all
  having gain is not null
), stored as (
  select
    benchmark, category as name, arg_max(score.weights_json, score.scored_at) as weights
  from round_score
  join score using (checkpoint_id, benchmark, basis, category)
  where round_score.round = :round
    and model = 'new'
    and score.weights_json is not null
  group by all
), average as (
  select benchmark, name, unnest(map_entries(weights::json::map(varchar, double))) as part
  from stored
), weighed as (
  select
    benchmark, category, gain,
    1 / count(*) over (partition by benchmark, category) as share
  from paired
), line as (
  select benchmark, category, gain, share from weighed
  union all
  select benchmark, name, gain, share * part.value
  from weighed join average using (benchmark)
  where weighed.category = average.part.key
)
select
  benchmark, category, count(*) as items,
  count(*) filter (gain > 0) as gained,
  count(*) filter (gain < 0) as lost,
  100 * sum(gain * share) as points, null::double as low, null::double as high
from line
group by benchmark, category
order by benchmark, category <> 'overall', category

-- title = "Change by category"
-- caption = """
-- The new model less its parent on the same items, in points, with a 95 % interval, a bootstrap
-- over paired items as factory score prints it: gained items turned right or have a better mark,
-- lost ones turned wrong or have a worse one.
-- """
-- chart = { kind = "changes" }

with judged as (
  select
    score.benchmark, item_score.category, item, model,
    any_value(coalesce(item_score.value, correct::int)) as mark
  from round_score as score
  join item_score using (checkpoint_id, benchmark, basis)
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
)
select
  benchmark, category, count(*) as items,
  count(*) filter (gain > 0) as gained,
  count(*) filter (gain < 0) as lost,
  100 * avg(gain) as points, null::double as low, null::double as high
from paired
group by benchmark, category
order by benchmark, category

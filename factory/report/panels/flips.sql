-- title = "Items that changed"
-- caption = """
-- Up to five a benchmark and direction, chosen by a hash of their id; long texts are cut. Query and
-- gold are those that were scored.
-- """

with judged as (
  select latest_item.*, model
  from round_score as score
  join latest_item using (checkpoint_id, benchmark, basis)
  where score.round = :round
    and score.category = 'overall'
    and unit = 'percent'
), asked as (
  select benchmark, basis, item, any_value(query) as query, any_value(gold_json) as gold
  from benchmark_item
  group by benchmark, basis, item
)
select
  benchmark, after.category, item,
  left(coalesce(query, ''), 800) as query,
  left(coalesce(gold, ''), 800) as gold,
  case when after.correct then 'right' else 'wrong' end as now,
  left(before.answer, 800) as answer_before,
  left(after.answer, 800) as answer_after,
  before.reason as reason_before,
  after.reason as reason_after,
  count(*) over (partition by benchmark, after.correct) as total
from (from judged where model = 'new') as after
join (from judged where model = 'parent') as before using (benchmark, basis, item)
left join asked using (benchmark, basis, item)
where before.correct <> after.correct
qualify row_number() over (partition by benchmark, after.correct order by md5(item)) <= 5
order by benchmark, after.correct, md5(item)
limit 60

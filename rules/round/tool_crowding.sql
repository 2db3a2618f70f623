-- Samples whose called tool was called by enough earlier ones: more than min_samples, max_share of
-- the round, and max_times what each called tool would have if all had the same.
with called as (
  select distinct candidate.place, candidate.query_id, tool.name
  from candidate
  join candidate_tool using (query_id)
  join tool using (tool_id)
  where candidate_tool.called
),
bound as (
  select
    greatest(
      $min_samples,
      $max_share * (select count(*) from candidate),
      $max_times * count(*) / count(distinct name)
    ) as most
  from called
),
ranked as (
  select
    place,
    query_id,
    name,
    row_number() over (partition by name order by place) as number,
    count(*) over (partition by name) as total
  from called
)
select
  query_id,
  'calls' as subject,
  format('{} is called by {} samples of the round, {:.0f} are enough', name, total, floor(most)) as detail
from ranked, bound
where number > most
qualify row_number() over (partition by query_id order by name) = 1

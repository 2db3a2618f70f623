-- title = "Length of requests"
-- caption = """
-- Drawn requests by their number of words, in steps of four; the last step is open.
-- """
-- chart = { kind = "columns", x = "words", y = ["accepted", "fell"], title = "words, from" }

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

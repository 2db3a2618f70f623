-- title = "What the model wrote"
-- caption = """
-- Raw answers by stage: tokens a second are over the wall time of sampling, all stages together;
-- cut is the share that reached its token limit.
-- """
-- turned = true

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
where round = :round and query_id not in (select query_id from made where round = :round)
group by stage
order by stage

-- title = "Scores"
-- caption = """
-- Percent of each round's model with its stored 95 % interval; round 0 is the model that was
-- given. A held model is shown too; the next round starts from its parent. The chart has the
-- first four benchmarks, the table all, with perplexities, of which less is better.
-- """
-- chart = { kind = "courses", x = "benchmark", y = ["value"] }

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

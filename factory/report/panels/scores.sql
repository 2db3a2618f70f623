-- title = "Scores by category"
-- caption = """
-- Percent with a 95 % interval, a bootstrap over items: the one stored with the score, else, for a
-- category, the one that factory score prints. Of a perplexity less is better.
-- """
-- chart = { kind = "scores" }

with judged as (
  select checkpoint_id, benchmark, basis, category, count(distinct item) as items
  from latest_item
  group by all
)
select
  score.benchmark, score.category, model,
  coalesce(num_items, judged.items) as items,
  value as percent, low, high, unit
from round_score as score
left join judged using (checkpoint_id, benchmark, basis, category)
where round = :round
order by score.benchmark, score.category <> 'overall', score.category, model desc

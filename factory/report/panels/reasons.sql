-- title = "Why samples fell"
-- caption = """
-- Samples by the reason they were rejected for, or not judged; the first that applies.
-- """
-- chart = { kind = "bars", x = "reason", y = ["samples"], total = "drawn" }

select
  reason,
  status,
  min(stage) as stage,
  count(*) as samples,
  (select count(*) from draw where round = :round) as drawn
from outcome
join latest_judgement using (round, judgement)
where round = :round
  and status <> 'accepted'
group by reason, status
order by samples desc, reason
limit 24

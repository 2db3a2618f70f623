-- title = "Why samples fell, over rounds"
-- caption = """
-- Share of drawn queries that were rejected for each of the four commonest reasons.
-- """
-- chart = { kind = "courses", x = "reason", y = ["share"] }

with counted as (
  select round, reason, count(*) as samples
  from rejected
  where round between :first and :round
  group by round, reason
), top as (
  select reason, sum(samples) as total
  from counted
  group by reason
  order by total desc, reason
  limit 4
)
select counted.round, counted.reason, counted.samples / round_yield.drawn as share
from counted
join top using (reason)
join round_yield on round_yield.round = counted.round
order by top.total desc, counted.reason, counted.round

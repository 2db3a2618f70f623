-- title = "Time by stage"
-- caption = """
-- Seconds of wall time; a stage that ran more than once is the sum.
-- """
-- chart = { kind = "bars", x = "stage", y = ["seconds"], unit = " s", total = "total" }

select
  stage,
  sum(seconds) as seconds,
  count(*) as runs,
  (select sum(seconds) from stage where round = :round) as total
from stage
where round = :round
group by stage
order by min(started_at), stage
limit 40

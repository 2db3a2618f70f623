-- title = "Loss"
-- caption = """
-- Training loss by optimizer step; of long trainings the means of 120 stretches.
-- """
-- chart = { kind = "lines", x = "step", y = ["loss"], dots = false }

with stretch as (
  select *, ntile(120) over (order by step) as part
  from training
  where round = :round
)
select max(step) as step, avg(loss) as loss, avg(learning_rate) as learning_rate
from stretch
group by part
order by step

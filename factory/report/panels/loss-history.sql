-- title = "Loss at the end of training"
-- caption = """
-- Mean of the last tenth of the steps.
-- """
-- chart = { kind = "lines", x = "round", y = ["loss"] }

select round, avg(loss) as loss
from (select *, max(step) over (partition by round) as last from training)
where step > 0.9 * last
  and round between :first and :round
group by round
having avg(loss) is not null
order by round

-- title = "Calls in an answer"
-- caption = """
-- Accepted samples by the number of calls that answer them.
-- """
-- chart = { kind = "columns", x = "calls", y = ["samples"], title = "calls" }

select num_calls as calls, count(*) as samples
from outcome
join latest_judgement using (round, judgement)
where round = :round
  and status = 'accepted'
group by 1
order by 1
limit 40

-- title = "Acceptance and agreement"
-- caption = """
-- Accepted over drawn, and the mean share of samples that agree with the largest class.
-- """
-- chart = { kind = "lines", x = "round", y = ["acceptance", "agreement"], bounds = [0, 1] }

select
  round_yield.round,
  round_yield.acceptance,
  agreed.agreement
from round_yield
left join (
  select round, avg(votes / num_samples) as agreement from latest_vote group by round
) as agreed on agreed.round = round_yield.round
where round_yield.round between :first and :round
order by round_yield.round

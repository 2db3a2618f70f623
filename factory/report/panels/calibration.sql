-- title = "Calibration"
-- caption = """
-- The model's answers to the labelled dev set, by the votes that a label needs: how many labels are
-- kept, the share of them that is right, and at least (Wilson, one-sided 90 %). The round took the
-- minimum that its recipe's precision asks for.
-- """
-- chart = { kind = "lines", x = "votes", y = ["precision", "at_least"], bounds = [0, 1] }

select
  votes,
  kept,
  num_right,
  round(precision, 3) as precision,
  round(low / 100, 3) as at_least,
  minimum,
  wanted,
  benchmark
from calibration
where round = :round
order by votes

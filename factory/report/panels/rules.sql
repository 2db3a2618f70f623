-- title = "What the rules found"
-- caption = """
-- Findings of every rule on every record, warnings and answers that lost the vote included; share
-- is the share of drawn queries with at least one.
-- """

select rule, samples, round(share, 3) as share, hits, reason, severity
from rule_yield
where round = :round
order by samples desc, rule, reason, severity
limit 40

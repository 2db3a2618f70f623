-- title = "Funnel"
-- caption = """
-- Queries that got this far: drawn, past the judgement of their tool documents (tools), called
-- and voted on (called), with a winner (voted), past the rules about single samples (passed) and
-- past those about the whole round (accepted).
-- """
-- chart = { kind = "bars", x = "step", y = ["queries"], total = "drawn" }

with yield as (
  select drawn, tools_ok as tools, called, voted, passed, accepted
  from round_yield
  where round = :round
)
select step, queries, (select drawn from yield) as drawn
from (unpivot yield on drawn, tools, called, voted, passed, accepted into name step value queries)

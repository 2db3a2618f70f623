-- title = "Tools that are called"
-- caption = """
-- The accepted calls' tools by name, the most called first.
-- """
-- chart = { kind = "bars", x = "tool", y = ["calls"], total = "total" }

with called as (
  select round, query_id, unnest(try_cast(calls_json as json[])) ->> 'name' as tool
  from accepted
  where round = :round
), used as (
  select round, left(tool, 80) as tool, count(*) as calls
  from called
  group by 1, 2
)
select tool, calls, (select sum(calls) from used) as total
from used
order by calls desc, tool
limit 12

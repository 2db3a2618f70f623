-- title = "Argument types"
-- caption = """
-- Type words of the arguments of the tools of accepted samples, each document once.
-- """
-- chart = { kind = "bars", x = "type", y = ["arguments"] }

with shown as (
  select unnest(try_cast(tools_json as json[])) as tool
  from accepted
  where round = :round
), document as (
  select tool ->> 'id' as id, any_value(tool -> 'document') as document
  from shown
  group by 1
), argument as (
  select unnest(map_values(try_cast(
    document -> 'arguments' -> 'properties' as map(varchar, json)
  ))) as argument
  from document
)
select left(coalesce(argument ->> 'type', 'none'), 40) as type, count(*) as arguments
from argument
group by 1
order by arguments desc, type
limit 12

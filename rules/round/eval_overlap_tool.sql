-- Tools with the name and the parameter names of a benchmark's function (A44).
with offered as (
  select name, parameters, min(item) as item, arg_min(sha, item) as sha
  from benchmark_tool
  group by name, parameters
)
select
  candidate_tool.query_id,
  'tool:' || tool.tool_id as subject,
  format('{} is a function of {} (benchmark {})', tool.signature, item, sha) as detail
from candidate_tool
join tool using (tool_id)
join offered using (name, parameters)

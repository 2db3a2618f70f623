-- New documents with the signature of an earlier one. One document shown to many is no duplicate.
with earliest as (
  select signature, min(place) as place, arg_min(tool_id, place) as tool_id
  from tool
  group by signature
)
select
  candidate_tool.query_id,
  'tool:' || tool.tool_id as subject,
  format('{} is {} once more: {}', tool.tool_id, earliest.tool_id, tool.signature) as detail
from candidate_tool
join tool using (tool_id)
join earliest using (signature)
where earliest.place < tool.place

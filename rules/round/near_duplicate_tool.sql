-- New documents with nearly the parameter names and the description of an earlier one.
with banded as (
  select place, unnest(bands) as band from tool
),
met as (
  select
    place,
    first_value(place) over earlier as first,
    lag(place, 1) over earlier as previous,
    lag(place, 2) over earlier as before
  from banded
  window earlier as (partition by band order by place)
),
pair as (
  select distinct place, unnest([first, previous, before]) as other
  from met
  where first < place
),
alike as (
  select
    tool.tool_id,
    other.tool_id as other,
    other.place,
    jaccard_of(tool.shingles, other.shingles) as description,
    case
      when len(tool.parameters) + len(other.parameters) = 0 then 1
      else jaccard_of(tool.parameters, other.parameters)
    end as parameters
  from pair
  join tool on tool.place = pair.place
  join tool as other on other.place = pair.other and other.place < tool.place
  where tool.signature <> other.signature
    and tool.tool_id in (select tool_id from candidate_tool)
),
nearest as (
  from alike
  where description >= $min_description and parameters >= $min_parameters
  qualify row_number() over (partition by tool_id order by place) = 1
)
select
  candidate_tool.query_id,
  'tool:' || tool_id as subject,
  format(
    '{} is like {}: {:.0f} % of the parameters, {:.0f} % of the description',
    tool_id, other, 100 * parameters, 100 * description
  ) as detail
from candidate_tool
join nearest using (tool_id)

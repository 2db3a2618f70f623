-- title = "Tools shown"
-- caption = """
-- Tool documents that the round's samples were answered with: how many different ones, and the
-- mean over them of arguments, of the share of arguments that are required, and of the words of
-- the description.
-- """
-- turned = true

with shown as (
  select status, unnest(try_cast(tools_json as json[])) as tool
  from outcome
  join latest_judgement using (round, judgement)
  where round = :round
), document as (
  select
    tool ->> 'id' as id,
    bool_or(status = 'accepted') as accepted,
    any_value(tool -> 'document') as document
  from shown
  group by 1
), measured as (
  select
    accepted,
    document ->> 'name' as name,
    len(json_keys(document -> 'arguments' -> 'properties')) as arguments,
    json_array_length(document -> 'arguments' -> 'required') as required,
    len(string_split(document ->> 'description', ' ')) as words
  from document
)
select
  case when accepted then 'accepted' else 'rejected only' end as samples,
  count(*) as documents,
  count(distinct name) as names,
  round(avg(arguments), 2) as arguments,
  round(avg(required / nullif(arguments, 0)), 2) as required_share,
  round(avg(words), 1) as description_words
from measured
group by accepted
order by accepted desc

-- title = "Variety of tools"
-- caption = """
-- distinct_tools: different tool names over accepted calls. evenness: entropy of the calls over
-- tool names, over its maximum (the logarithm of the number of names); 1 where each is called as
-- often. distinct_words: different words over all words of the names.
-- """
-- chart = { kind = "lines", x = "round", y = ["distinct_tools", "evenness", "distinct_words"], bounds = [0, 1] }

with called as (
  select round, query_id, unnest(try_cast(calls_json as json[])) ->> 'name' as tool
  from accepted
  where round between :first and :round
), used as (
  select round, left(tool, 80) as tool, count(*) as calls
  from called
  group by 1, 2
), share as (
  select round, calls / sum(calls) over (partition by round) as p, calls
  from used
), word as (
  select round, unnest(regexp_extract_all(lower(tool), '[\p{L}\p{N}]+')) as word
  from used
)
select
  round,
  tools,
  calls,
  distinct_tools,
  entropy_bits,
  evenness,
  distinct_words
from (
  select
    round,
    count(*) as tools,
    sum(calls) as calls,
    count(*) / sum(calls) as distinct_tools,
    -sum(p * log2(p)) as entropy_bits,
    -sum(p * log2(p)) / nullif(log2(count(*)), 0) as evenness
  from share
  group by round
)
left join (
  select round, count(distinct word) / count(*) as distinct_words from word group by round
) using (round)
order by round

-- title = "Overlap and drift"
-- caption = """
-- known_tools, known_words: share of a round's tool names and words that an earlier round shown
-- here has. drift: Jensen-Shannon divergence, in bits, of the words of a round's accepted
-- requests from those of the round before; 0 is the same, 1 nothing in common. Small rounds
-- differ by chance alone.
-- """
-- chart = { kind = "lines", x = "round", y = ["known_tools", "known_words", "drift"], bounds = [0, 1] }

with asked as (
  select
    round,
    query_id,
    regexp_extract_all(lower(left(query, 2000)), '[\p{L}\p{N}]+') as words
  from accepted
  where round between :first and :round
), word as (
  select round, unnest(words) as word
  from asked
), counted as (
  select round, word, count(*) / sum(count(*)) over (partition by round) as p
  from word
  group by round, word
), tool as (
  select distinct round, unnest(try_cast(calls_json as json[])) ->> 'name' as tool
  from accepted
  where round between :first and :round
), known_word as (
  select round, avg((round > first)::int) as known_words
  from (select round, min(round) over (partition by word) as first from counted)
  group by round
), known_tool as (
  select round, avg((round > first)::int) as known_tools
  from (select round, min(round) over (partition by tool) as first from tool)
  group by round
), neighbour as (
  select round, lag(round) over (order by round) as before
  from (select distinct round from counted)
), aligned as (
  select round, word, sum(p) as p, sum(q) as q
  from (
    select neighbour.round, word, p, 0 as q
    from counted
    join neighbour on neighbour.round = counted.round and neighbour.before is not null
    union all
    select neighbour.round, word, 0 as p, p as q
    from counted
    join neighbour on neighbour.before = counted.round
  )
  group by round, word
), drifted as (
  select
    round,
    sum(
      case when p > 0 then p * log2(2 * p / (p + q)) else 0 end
      + case when q > 0 then q * log2(2 * q / (p + q)) else 0 end
    ) / 2 as drift
  from aligned
  group by round
)
select round, known_tools, known_words, drift
from known_word
left join known_tool using (round)
left join drifted using (round)
order by round

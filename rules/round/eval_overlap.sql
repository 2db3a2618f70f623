-- Requests that equal a benchmark's question or share half of their word 8-grams with it (A44), and
-- ask for the same numbers, signs and negations, or hold all of its words, or it all of theirs.
with gram as (
  select query_id, len(grams) as num_grams, unnest(grams) as gram from candidate
),
item_gram as (
  select item, unnest(grams) as gram from benchmark
),
overlap as (
  select query_id, item, count(*) / any_value(num_grams) as share, count(*) as num_shared
  from gram
  join item_gram using (gram)
  group by query_id, item
  union all
  select candidate.query_id, benchmark.item, 2 as share, 0 as num_shared
  from candidate
  join benchmark using (words)
)
select
  overlap.query_id,
  case
    when share > 1 then format('is {} (benchmark {})', item, sha)
    else format('shares {:.0f} % of its 8-grams with {} (benchmark {})', 100 * share, item, sha)
  end as detail
from overlap
join benchmark using (item)
join candidate on candidate.query_id = overlap.query_id
where share >= $min_share
  and (
    share > 1
    or same_sense(candidate.sense, benchmark.sense)
    or (
      num_shared >= least(len(candidate.grams), len(benchmark.grams))
      and candidate.sense.signs = benchmark.sense.signs
    )
  )
qualify row_number() over (partition by overlap.query_id order by share desc, item) = 1

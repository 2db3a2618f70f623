-- Requests equal to an earlier one up to case, punctuation and white space; signs that mean something
-- (-5, 5 %, C++, 👍) stay. The first is kept.
with asked as (
  select place, query_id, words, 'round ' || round as whence from history
  union all
  select place, query_id, words, 'this round' as whence from candidate
),
earliest as (
  select words, min(place) as place, arg_min(query_id, place) as query_id, arg_min(whence, place) as whence
  from asked
  group by words
)
select
  candidate.query_id,
  format('asks in the same words as {} of {}', earliest.query_id, earliest.whence) as detail
from candidate
join earliest using (words)
where earliest.place < candidate.place

-- Requests whose character 5-grams are nearly those of an earlier one; the first is kept. A text is
-- compared with the first and the two previous ones of each MinHash band it is in, never with all.
-- One that asks for other numbers, signs or negations, or was answered by other calls, is none.
with asked as (
  select place, query_id, words, sense, calls_key, shingles, bands, 'round ' || round as whence
  from history
  union all
  select place, query_id, words, sense, calls_key, shingles, bands, 'this round' as whence
  from candidate
),
banded as (
  select place, unnest(bands) as band from asked
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
  where place >= (select min(place) from candidate) and first < place
),
alike as (
  select
    candidate.query_id,
    other.query_id as other,
    other.whence,
    other.place,
    jaccard_of(candidate.shingles, other.shingles) as jaccard
  from pair
  join candidate on candidate.place = pair.place
  join asked as other on other.place = pair.other and other.place < candidate.place
  where candidate.words <> other.words
    and (candidate.calls_key = other.calls_key) is not false
    and same_sense(candidate.sense, other.sense)
)
select
  query_id,
  format('{:.0f} % like {} of {}', 100 * jaccard, other, whence) as detail
from alike
where jaccard >= $min_jaccard
qualify row_number() over (partition by query_id order by place) = 1

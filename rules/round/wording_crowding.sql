-- Samples whose wording, with numbers and called values masked, has been used enough before in the
-- round: more than min_samples, max_share of the round, and max_times an even share.
with bound as (
  select
    greatest(
      $min_samples,
      $max_share * count(*),
      $max_times * count(*) / count(distinct wording)
    ) as most
  from candidate
),
ranked as (
  select
    query_id,
    wording,
    row_number() over (partition by wording order by place) as number,
    count(*) over (partition by wording) as total
  from candidate
)
select
  query_id,
  format('{} samples of the round are worded "{}", {:.0f} are enough', total, wording, floor(most)) as detail
from ranked, bound
where number > most

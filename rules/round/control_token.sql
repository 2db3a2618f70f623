-- Requests that spell a control token of a known family of models. RE2 reads what stands between \Q and \E
-- as it is.
with pattern as (
  select '\Q' || replace(unnest($marks), '*', '\E[\w▁-]{1,40}\Q') || '\E' as pattern
),
hit as (
  select query_id, regexp_extract(query, pattern) as hit
  from candidate, pattern
)
select query_id, format('"{}" is a control token of known models', min(hit)) as detail
from hit
where hit != ''
group by query_id

-- Samples whose request has a word outside of all values that at least min_samples hold, and at most
-- max_share of these outside of their values: a value that is missing here, or cut short. Only words
-- that are a whole value somewhere count, so that "The Ivy" says nothing of "the"; and only samples
-- that call something.
with calling as (
  select query_id, words, wording, calls_json from candidate where calls_key is not null
),
value as (
  select distinct lower(unnest(regexp_extract_all(calls_json, '"([^"\\]+)"', 1))) as word from calling
),
heard as (
  select distinct query_id, word
  from (select query_id, unnest(string_split(words, ' ')) as word from calling)
  semi join value using (word)
),
outside as (
  select distinct query_id, unnest(string_split(wording, ' ')) as word from calling
),
counted as (
  select
    word,
    count(*) as samples,
    count(outside.query_id) as times
  from heard
  left join outside using (query_id, word)
  group by word
)
select
  heard.query_id,
  format('"{}" is a part of a value in {} of {} samples that say it', word, samples - times, samples) as detail
from heard
join outside using (query_id, word)
join counted using (word)
where samples >= $min_samples and times <= $max_share * samples
qualify row_number() over (partition by heard.query_id order by samples desc, word) = 1

-- title = "Variety of requests"
-- caption = """
-- distinct_1 and distinct_2: different words and word pairs over all words and pairs of the
-- accepted requests; both fall as a round grows. self_similarity: mean Jaccard similarity of the
-- word sets of two requests, over all pairs of at most 200 requests chosen by hash.
-- """
-- chart = { kind = "lines", x = "round", y = ["distinct_1", "distinct_2", "self_similarity"], bounds = [0, 1] }

with asked as (
  select
    round,
    query_id,
    regexp_extract_all(lower(left(query, 2000)), '[\p{L}\p{N}]+') as words
  from accepted
  where round between :first and :round
), unigram as (
  select round, unnest(words) as gram
  from asked
), bigram as (
  select round, unnest(list_transform(
    range(1, len(words)), lambda i: words[i] || ' ' || words[i + 1]
  )) as gram
  from asked
), chosen as (
  select round, query_id, list_distinct(words) as words
  from asked
  qualify row_number() over (partition by round order by md5(query_id)) <= 200
), pair as (
  select
    a.round,
    len(list_intersect(a.words, b.words)) as common,
    len(a.words) + len(b.words) as each
  from chosen as a
  join chosen as b on a.round = b.round and a.query_id < b.query_id
)
select
  round,
  requests,
  distinct_1,
  distinct_2,
  self_similarity
from (select round, count(*) as requests from asked group by round)
left join (
  select round, count(distinct gram) / count(*) as distinct_1 from unigram group by round
) using (round)
left join (
  select round, count(distinct gram) / count(*) as distinct_2 from bigram group by round
) using (round)
left join (
  select round, avg(common / nullif(each - common, 0)) as self_similarity from pair group by round
) using (round)
order by round

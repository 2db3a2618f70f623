-- title = "Samples that fell"
-- caption = """
-- Up to three of each reason, chosen by a hash of their id; long texts are cut. factory show with
-- the id shows one whole.
-- """

select
  reason, query_id, rule, left(path, 200) as path,
  left(query, 400) as query, left(message, 400) as message,
  count(*) over (partition by reason) as total
from rejected
where round = :round
qualify row_number() over (partition by reason order by md5(query_id)) <= 3
order by total desc, reason, md5(query_id)
limit 45

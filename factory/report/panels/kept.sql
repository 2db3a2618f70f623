-- title = "Samples that were kept"
-- caption = """
-- Eight, chosen by a hash of their id; long texts are cut.
-- """

select query_id, agreement, left(query, 400) as query, left(calls_json, 800) as calls
from accepted
where round = :round
order by md5(query_id)
limit 8

-- title = "What it was trained on"
-- caption = """
-- Examples made of this round's accepted samples, by kind; replay is not counted.
-- """
-- chart = { kind = "bars", x = "kind", y = ["examples"] }

select kind, count(*) as examples
from example
where round = :round
group by kind
order by examples desc, kind

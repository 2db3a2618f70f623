-- title = "Vote margin"
-- caption = """
-- Queries by margin: votes of the first class less those of the second, over the samples. 1 is
-- unanimous, 0 a tie.
-- """
-- chart = { kind = "columns", x = "margin", y = ["queries"], title = "margin" }

select round(margin, 2) as margin, sum(queries) as queries
from vote_margin
where round = :round
group by 1
order by 1

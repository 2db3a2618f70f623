-- title = "Codes"
-- caption = """
-- Did the model propose the code that the coder assigned? full: yes; prefix: the first level
-- agrees; none. A signal, never a label.
-- """
-- chart = { kind = "bars", x = "agreement", y = ["tools"] }

select agreement, count(*) as tools
from code_proposal
where round = :round
group by agreement
order by agreement

-- title = "Samples made of accepted ones"
-- caption = """
-- By way of making: how many passed the rules, how many fell, and for what most often. They are in
-- no other count of this page but the examples that were trained on.
-- """

select
  made_by as way,
  count(*) filter (status = 'accepted') as accepted,
  count(*) filter (status <> 'accepted') as rejected,
  mode(nullif(reason, '')) as most_often
from made
where round = :round
group by made_by
order by accepted desc, way

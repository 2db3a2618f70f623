-- title = "Calibration by votes and margin"
-- caption = """
-- The same questions by the votes of the largest class of the first answers and its margin: right
-- are those whose label, where it is kept, is right.
-- """
-- chart = { kind = "bars", x = "class", y = ["num_right"], total = "items" }

select
  votes || ' votes, margin ' || printf('%.2f', margin) as class,
  items,
  num_right,
  round(precision, 3) as precision
from calibration_margin
where round = :round
order by votes desc, margin desc

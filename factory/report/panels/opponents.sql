-- title = "Whom the new model met"
-- caption = """
-- The gate's comparisons in points on the same items, with a 95 % interval: parent, the best
-- checkpoint so far and the model that was given. A fall beyond the tolerance, which is at least the
-- noise between two passes of one model, holds; so does what has no score by the same ruler.
-- """

select
  measure, opponent, opponent_id as checkpoint, benchmark, prompt,
  before, after, delta as points, low, high, tolerance, noise, verdict
from gate
where round = :round
order by measure desc, opponent desc, prompt desc

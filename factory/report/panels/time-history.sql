-- title = "Time"
-- caption = """
-- Seconds of wall time: sampling, training, scoring, and all stages together.
-- """
-- chart = { kind = "lines", x = "round", y = ["sampling", "training", "scoring", "everything"] }

select
  round,
  sum(seconds) filter (stage = 'sample') as sampling,
  sum(seconds) filter (stage = 'train') as training,
  sum(seconds) filter (starts_with(stage, 'score')) as scoring,
  sum(seconds) as everything
from stage
where round between :first and :round
group by round
order by round

-- title = "Agreement"
-- caption = """
-- Queries by the votes of their largest class of equal answers, and what became of them. Entropy
-- is that of the classes, in bits: 0 where all agree.
-- """
-- chart = { kind = "columns", x = "votes", y = ["accepted", "fell"], title = "votes of the largest class" }

select
  vote.votes,
  count(*) filter (sample.status = 'accepted') as accepted,
  count(*) filter (sample.status is distinct from 'accepted') as fell,
  round(avg(vote.entropy), 3) as entropy
from latest_vote as vote
left join (
  select round, query_id, status
  from outcome
  join latest_judgement using (round, judgement)
) as sample using (round, query_id)
where vote.round = :round
group by vote.votes
order by vote.votes

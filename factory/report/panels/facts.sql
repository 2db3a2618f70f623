-- title = "What it ran with"
-- caption = """
-- The round, its models, recipe, seed and the hashes of its content.
-- """
-- turned = true

select
  round.round,
  round.started_at,
  round.checkpoint_id as parent,
  made.checkpoint_id as model,
  made.promoted,
  gate.detail_json ->> 'reason' as outcome,
  round.recipe_name as recipe,
  round.seed,
  round.package_version as version,
  round.prompts_sha,
  round.rules_sha,
  round.recipe_sha
from round
left join stage as gate on gate.round = round.round and gate.stage = 'gate'
left join checkpoint as made on made.round = round.round and made.parent_id is not null
where round.round = :round

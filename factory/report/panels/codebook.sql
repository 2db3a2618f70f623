-- title = "Codebook"
-- caption = """
-- The codebook after this round: tools that shared a code before assignment (collisions), tools
-- that assignment moved to a free code, the 99th percentile of quantisation errors, and the mean
-- entropy of token use over levels, in bits.
-- """
-- turned = true

select
  version, num_tools as tools, levels, size,
  collisions_before as collisions, moved, outlier_error, usage_entropy,
  (select count(*) from tool_code where round = :round) as new_codes,
  (select count(*) from tool_code where round = :round and ood) as far_from_code
from codebook
where round <= :round
order by round desc, version desc
limit 1

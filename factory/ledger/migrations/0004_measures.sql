-- Benchmarks whose items have a mark between right and wrong, and measures that are no percentage.
alter table item_score add column value double;         -- mark from 0 to 1; null is that of correct
alter table item_score add column detail_json varchar;  -- further measures, and what the mark rests on
alter table score add column unit varchar;              -- percent where null; of perplexity less is better

-- Samples that a round makes of its accepted ones: no request was drawn for them, and no model answered.
alter table sample add column made_by varchar;          -- join, values, …; empty, or null in older rows, where it was sampled
alter table sample add column made_of_json varchar;     -- query ids of the samples that it is made of

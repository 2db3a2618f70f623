-- Trainings in stages, and the loss of each kind of example.
alter table training add column stage integer;          -- from 1; null where the recipe has none
alter table training add column stage_name varchar;
alter table training add column losses_json varchar;    -- kind to the step's mean loss, not weighted

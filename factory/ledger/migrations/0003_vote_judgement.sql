-- Votes are counted anew when a round is judged again.
alter table vote add column judgement integer;  -- null, in older rows, is the first

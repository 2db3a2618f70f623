-- Why a request was drawn before others, where it was.
alter table draw add column chosen varchar;             -- like q_… (vote_tie): one that failed; empty, or null in older rows, where it was its turn

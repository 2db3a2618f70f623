-- The ledger's tables. Every table is append only: one row a fact, never changed, never deleted.
-- Timestamps are UTC. Columns ending in _json hold JSON text. Times in seconds, sizes in tokens.
-- A later migration may add tables and columns, nothing else: old rows read as null there.

-- A round's start: everything that decided what it did.
create table round (
  round integer,
  started_at timestamp,
  checkpoint_id varchar,           -- the checkpoint that generates
  checkpoint_fingerprint varchar,
  recipe_name varchar,
  recipe_json varchar,             -- the recipe as merged, defaults included
  recipe_sha varchar,
  prompts_sha varchar,
  rules_sha varchar,
  seed bigint,
  num_queries integer,             -- asked for
  package_version varchar,
  versions_json varchar            -- versions of the libraries it ran on
);

-- A stage's end. A stage may appear more than once: each restart is a row.
create table stage (
  round integer,
  stage varchar,
  status varchar,                  -- done, restarted, failed
  started_at timestamp,
  finished_at timestamp,
  seconds double,
  detail_json varchar
);

-- The query pool.
create table query (
  query_id varchar,
  text varchar,
  source varchar,                  -- file and line, home, or model
  added_at timestamp
);

-- Which queries a round works on.
create table draw (
  round integer,
  position integer,
  query_id varchar
);

create table tool (
  tool_id varchar,
  name varchar,
  document_json varchar,
  origin varchar,
  round integer,
  added_at timestamp
);

-- The code of a tool in one codebook version.
create table tool_code (
  tool_id varchar,
  codebook_version integer,
  code varchar,                    -- <a_1><b_2><c_3>
  resolved_by varchar,
  error double,                    -- quantisation error
  ood boolean,                     -- further from its code than the codebook's 99th percentile
  round integer
);

create table codebook (
  version integer,
  round integer,
  checkpoint_id varchar,
  coder varchar,
  levels integer,
  size integer,                    -- tokens a level
  num_tools integer,
  collisions_before integer,       -- tools that shared a code before assignment
  moved integer,                   -- tools that assignment gave another code
  penalty double,                  -- mean cost of those moves, in the coder's distance
  outlier_error double,            -- 99th percentile of the tools' errors
  reencoded double,                -- share of tools whose nearest code is still their own
  usage_entropy double,            -- bits, mean over levels
  sha varchar,
  path varchar
);

-- Every raw answer of a model.
create table generation (
  round integer,
  query_id varchar,
  stage varchar,                   -- tools, propose, retrieve, calls
  subject varchar,
  sample_index integer,
  text varchar,                    -- lone surrogates are written as their \udXXX escape
  finish_reason varchar,
  num_prompt_tokens integer,
  num_tokens integer,
  logprob double,                  -- cumulative
  seed bigint,
  sampling_json varchar,
  prompt_sha varchar,
  checkpoint_id varchar
);

-- What the sampled calls of one query agree on.
create table vote (
  round integer,
  query_id varchar,
  num_samples integer,
  winner integer,                  -- sample index; null where nothing won
  votes integer,                   -- of the largest class
  margin double,                   -- (votes of first - votes of second) / num_samples
  entropy double,                  -- bits
  decided_by varchar,              -- strict, loose, none
  reason varchar,                  -- empty where something won
  classes_json varchar             -- class number of each sample
);

-- One finding of one rule, under one judgement.
create table verdict (
  round integer,
  judgement integer,
  query_id varchar,
  subject varchar,
  rule varchar,
  reason varchar,
  severity varchar,                -- reject, warn
  path varchar,
  message varchar
);

-- One pass of one rule set over a round's stored candidates.
create table judgement (
  judgement integer,
  round integer,
  rules_sha varchar,
  made_at timestamp,
  note varchar
);

-- The outcome: exactly one row per drawn query and judgement.
create table sample (
  round integer,
  judgement integer,
  query_id varchar,
  status varchar,                  -- accepted, rejected, unjudged
  stage varchar,                   -- where it fell
  reason varchar,
  rule varchar,
  path varchar,
  message varchar,
  tools_json varchar,
  calls_json varchar,
  num_tools integer,
  num_calls integer,
  agreement double,                -- votes of the winner / samples
  finished_at timestamp
);

create table training (
  round integer,
  step integer,
  loss double,
  learning_rate double,
  tokens bigint,
  seconds double
);

-- What a round's training saw, before codes are rendered.
create table example (
  round integer,
  kind varchar,
  origin varchar,
  messages_json varchar,
  num_tokens integer
);

create table checkpoint (
  checkpoint_id varchar,
  round integer,                   -- that made it
  parent_id varchar,
  path varchar,
  fingerprint varchar,
  promoted boolean,
  reason varchar,
  made_at timestamp
);

create table score (
  round integer,                   -- in which it was measured
  checkpoint_id varchar,
  benchmark varchar,
  category varchar,                -- overall, or a category's name
  value double,                    -- percent
  low double,                      -- 2.5th percentile of the bootstrap, percent
  high double,                     -- 97.5th
  num_items integer,
  basis varchar,                   -- hash of what it depends on besides the checkpoint
  scored_at timestamp
);

create table item_score (
  round integer,
  checkpoint_id varchar,
  benchmark varchar,
  item varchar,
  category varchar,
  correct boolean,
  reason varchar,
  message varchar,
  answer varchar,
  basis varchar                    -- as in score
);

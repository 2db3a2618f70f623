-- What the gate compared, how much of a difference is noise, what a score was measured with, and how
-- varied a model is.
create table gate (
  round integer,
  checkpoint_id varchar,           -- the new one
  measure varchar,                 -- calls, abstention
  opponent varchar,                -- parent, best, base; several where one checkpoint is all of them
  opponent_id varchar,
  benchmark varchar,               -- as the new checkpoint was asked it
  basis varchar,                   -- as in score, of the new checkpoint's
  prompt varchar,                  -- how the opponent was asked: own, chat
  before double,                   -- the opponent's score; null where it has none by this ruler
  after double,
  delta double,                    -- points, by a paired bootstrap
  low double,
  high double,
  num_items integer,
  tolerance double,                -- points that it may fall, the noise included
  noise double,                    -- as in the table noise; null where it was not measured
  verdict varchar,                 -- passed, held, inconclusive
  message varchar
);

-- Two passes of one model over one benchmark: what differs between them is noise.
create table noise (
  checkpoint_id varchar,
  benchmark varchar,
  basis varchar,                   -- as in score
  points double,                   -- the end of the 95 % interval of their difference that is further from 0
  num_changed integer,             -- items with another mark in the second pass
  num_items integer,
  round integer,
  measured_at timestamp
);

-- What the basis of a score is made of, part by part: what differs between two is what has changed.
create table ruler (
  benchmark varchar,
  basis varchar,                   -- as in score
  part varchar,                    -- questions, answers, prompt, max_tokens, reading
  sha varchar
);

-- How varied a model is beside the first ones of its lineage: what the gate holds a collapse by.
create table variety (
  round integer,
  checkpoint_id varchar,           -- the new one
  source varchar,                  -- answers: its own, to the gate's set; samples: the round's, it was taught
  figure varchar,                  -- words, tools, values, votes, repeats
  value double,                    -- a number of words or tools, bits of values or votes, a share
  first double,                    -- the earlier one's
  since varchar,                   -- whose or when that is
  allowed double,                  -- the recipe's limit (score.collapse); 0 is none
  held boolean
);

-- What a model was: everything that decides an answer, the weights, the tokenizer, the chat template,
-- generation settings, config, codes, dtype and backend. Null in rows of older versions, which knew
-- a model by its weights alone.
alter table score add column identity varchar;       -- its parts are in ruler, under no benchmark
alter table item_score add column identity varchar;
alter table item_score add column scored_at timestamp; -- as in score: the latest scoring counts
alter table noise add column identity varchar;
alter table checkpoint add column identity varchar;  -- when it was given or made
alter table round add column identity varchar;       -- of the checkpoint that it began from

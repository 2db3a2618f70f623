-- What was read out of each scored answer, and the questions that scores are of.
alter table item_score add column calls_json varchar;  -- empty where nothing could be read

create table benchmark_item (
  benchmark varchar,
  basis varchar,                   -- as in score
  item varchar,
  category varchar,
  query varchar,
  functions_json varchar,
  gold_json varchar                -- expected calls with their allowed values
);

-- How well a model kept its language in a round's training.
create table language (
  round integer,
  moment varchar,                  -- before, coded (new code tokens have their first rows), after
  perplexity double,               -- of plain text: the requests of the round's own dev set
  code_mass double,                -- mean probability of all code tokens there, where none belongs
  text_sha varchar                 -- of the text: figures of different texts cannot be compared
);

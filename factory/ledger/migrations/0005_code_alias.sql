-- What became of the tokens of the codebook before, where codes were made anew.
create table code_alias (
  version integer,                 -- of the codebook after
  round integer,
  old_token varchar,               -- of the codebook before: <a_3>
  new_token varchar,               -- of the same position; the same where the name was kept
  overlap integer                  -- tools that had the one and have the other
);

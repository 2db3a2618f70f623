-- What an average is made of, so that its change can be paired item by item.
alter table score add column weights_json varchar;
-- of an average: the weight of each category; null elsewhere, and in rows of older versions

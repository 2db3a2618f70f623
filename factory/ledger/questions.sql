-- The stock questions of `factory sql`: a line with the question, then one statement without
-- double quotes, so that it can be pasted between them in a shell. The latest round is meant
-- wherever none is named.

-- How far did the queries of each round get?
select * from round_yield order by round;

-- Why did samples of the latest round fall, with an example of each reason?
select reason, count(*) as samples, any_value(query_id) as example, any_value(message) as message from rejected where round = (select max(round) from round) group by reason order by samples desc;

-- Which rules found most, warnings included?
select rule, severity, hits, samples, share from rule_yield where round = (select max(round) from round) order by samples desc limit 15;

-- Does a reason get rarer from round to round?
select reason, round, count(*) as samples from rejected group by reason, round order by reason, round;

-- Which samples fell although every answer agreed?
select query_id, reason, message from rejected where agreement = 1 order by round desc, query_id limit 10;

-- Which samples were kept although answers disagreed?
select query, calls_json, agreement from accepted where agreement < 1 order by round desc, query_id limit 5;

-- How much did each way of making samples of accepted ones give?
select round, made_by, count(*) as samples, sum((status = 'accepted')::int) as kept, any_value(query_id) as example from made group by round, made_by order by round, samples desc;

-- How clear were the votes?
select round, margin, sum(queries) as queries from vote_margin group by round, margin order by round, margin;

-- Where did answers run into the limit of new tokens?
select round, stage, count(*) as answers, avg((finish_reason = 'length')::int) as cut, avg(num_tokens) as tokens from generation group by round, stage order by round, stage;

-- How often does the model propose the code that a new tool got?
select round, agreement, count(*) as tools from code_proposal group by round, agreement order by round, agreement;

-- Which code tokens lost most of their tools when codes were made anew?
select version, token, tools, kept, share, most from code_drift where version = (select max(version) from code_alias) order by share, tools desc, token limit 15;

-- What did each round change, worst first?
select * from round_delta order by delta, benchmark, category;

-- Which checkpoint came from which, and which is in use?
select * from lineage order by round;

-- Where did the time go?
select round, stage, sum(seconds) as seconds from stage group by round, stage order by round, seconds desc;

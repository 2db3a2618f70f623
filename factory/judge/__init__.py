"""Answers to verdicts: reading, canonical votes, rules on one sample and on a whole round.

Pure but for the rules in SQL, which run in a private DuckDB; benchmarks are scored in `score`.
"""

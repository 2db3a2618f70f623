"""Benchmarks of function calls in BFCL's format: questions, answers, the checker."""

"""A checkpoint's scores: every kind of benchmark behind one protocol, intervals, the gate.

`calls/` is BFCL's format, `toolbench/` ToolBench's.
"""

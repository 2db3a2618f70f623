"""One round in order; `round.py` is where to start reading.

Each step is a file; what a step does inside is in the rooms below.
"""

"""The home world: a generated universe of tools and requests, so that a fresh machine has work.

words   its nouns, verbs, parameters and values, by split
world   tools, requests and gold calls, drawn from a random.Random
bench   its held-out items in BFCL's format
"""

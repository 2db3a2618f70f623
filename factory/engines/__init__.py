"""The only door to a model: vLLM, transformers, HTTP and replay behind one protocol, in children.

What is asked, and what an answer is worth, is decided elsewhere.
"""

"""Trials that are kept, with their tables; coders compared as the papers compare them."""

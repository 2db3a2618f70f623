"""A user's folder: content files and their overlay, settings, recipes, prompts, model folders.

What a file means for a round is decided elsewhere.
"""

"""Lessons: labelled data in the formats that people have it in, read, judged and made examples.

Rooms above teach them; nothing here asks a model or writes the ledger.
"""

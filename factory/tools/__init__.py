"""Tool documents: reading any dialect, JSON Schema as tools use it, files to import.

Whether a document is good is judged in `judge`.
"""

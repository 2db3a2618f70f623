"""The one DuckDB file: segments, migrations, views; typed rows in, records out.

No other room writes SQL against the file, but `report`, which only reads its views.
"""

"""What every room speaks of: records, failures, ids, canonical text.

Nothing here reads a file, a model or the ledger.
"""

"""What a reader sees of the ledger: pages with their charts, and files for other trainers.

It reads views; it computes no score.
"""

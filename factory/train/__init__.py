"""Accepted samples to a checkpoint: curriculum, examples, encoding, and TRL in a child process.

Only what the child runs imports torch.
"""

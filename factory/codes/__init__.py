"""Tool codes: coders, assignment, tries, code tokens, codebooks and their files.

Training on codes is in `train`, decoding under a trie in `engines`.
"""

"""A checkpoint out of the door: served by vLLM's own server, exported, and scored where it stands.

What is ours is plugged into that server in the ways it has for it: no request is answered here.
"""

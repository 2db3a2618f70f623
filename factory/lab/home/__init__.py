"""The home world: generated tools, requests and answers, and the held-out set."""

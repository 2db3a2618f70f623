"""A campaign against the factory: `python -m bench.campaign`."""

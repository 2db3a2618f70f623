"""Recipes compared: a plan of variants, and what they came to as tables."""

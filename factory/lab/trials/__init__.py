"""Coders compared as the papers compare them: equal trainings, one table."""

"""Disturbs a run in every way that machines do."""

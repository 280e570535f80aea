"""Logs of a run: console, metrics, the run summary and results."""

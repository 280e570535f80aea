"""Renders the papers' tables beside our results; see `__main__`."""

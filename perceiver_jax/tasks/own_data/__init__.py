"""Completes the configs of a user's own data from the data."""

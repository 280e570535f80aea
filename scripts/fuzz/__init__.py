"""Reads damaged files until one of them breaks a reader."""

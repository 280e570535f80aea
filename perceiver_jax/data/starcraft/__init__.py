"""Observations of StarCraft II: lists of entities and the next command."""

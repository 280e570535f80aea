"""Exports trained models as programs that run without this project."""

"""Adapters: all that knows a modality, one file each."""

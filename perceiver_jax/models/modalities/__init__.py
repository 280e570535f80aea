"""Adapters and decoders that know a modality, one file for each."""

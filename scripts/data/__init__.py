"""Preparation of data sets, clips and tokenizers."""

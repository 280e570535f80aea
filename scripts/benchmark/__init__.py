"""Benchmarks of models, data pipelines and clip files."""

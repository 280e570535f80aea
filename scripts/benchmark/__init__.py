"""Timing of models, of data pipelines and of reading clips."""

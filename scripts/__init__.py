"""Command-line tools besides training: benchmarks, data preparation, sweeps."""

"""Command-line tools beside training: benchmarks, tables, conversion."""

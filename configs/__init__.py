"""One file an experiment; `get_config(variant)` returns its config."""

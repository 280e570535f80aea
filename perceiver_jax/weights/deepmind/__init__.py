"""The files that DeepMind released, under this project's parameter names."""

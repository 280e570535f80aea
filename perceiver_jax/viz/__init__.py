"""Pictures of what a model does: attention maps, curves, the run report."""

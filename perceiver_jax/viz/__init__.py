"""Images for people: attention maps, learning curves, the run report."""

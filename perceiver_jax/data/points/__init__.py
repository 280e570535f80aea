"""Point clouds and meshes: sources, files, sampling and prepared points."""

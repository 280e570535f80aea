"""Tasks: what a run learns, one file each."""

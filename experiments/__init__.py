"""Entry points, and one file a task."""

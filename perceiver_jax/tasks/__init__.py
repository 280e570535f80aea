"""Tasks that a run can train on, one per file."""

"""What `experiments.predict` can do, one file a command."""

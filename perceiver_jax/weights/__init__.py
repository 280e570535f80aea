"""Published checkpoints to and from this project's parameters."""

"""Evaluation as the papers do it, beyond one forward pass a batch."""

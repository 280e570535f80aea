"""Training: optimizers, the pmapped step, the loop, checkpoints and logs."""

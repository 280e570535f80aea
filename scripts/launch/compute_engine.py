"""Launches on Compute Engine: a managed instance group for each run."""

from perceiver_jax.errors import UserError
from scripts.launch import cloud_slices
from scripts.launch import job as job_lib

# Flags of `scripts.launch` that have an effect here, beside those of all.
FLAGS = ("accelerator", "spot", "project", "zone", "mounts")


def plan(job: job_lib.Job) -> job_lib.Plan:
  """Returns the scripts of each run.

  Raises:
    UserError: Compute Engine does not have the accelerator, or a flag is
      missing.
  """
  tpu = job.slice()
  if not tpu.generation.image_family:
    raise UserError(
      f"--accelerator={job.accelerator}: Compute Engine has TPUs v5p, v6e and"
      " TPU7x; launch with --where=tpu-vm"
    )
  return cloud_slices.plan(job, tpu, "compute_engine.sh")

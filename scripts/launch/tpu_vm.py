"""Launches with the Cloud TPU API: a queued resource for each run."""

from perceiver_jax.errors import UserError
from scripts.launch import cloud_slices
from scripts.launch import job as job_lib

# Flags of `scripts.launch` that have an effect here, beside those of all.
FLAGS = ("accelerator", "spot", "project", "zone", "mounts")


def plan(job: job_lib.Job) -> job_lib.Plan:
  """Returns the scripts of each run.

  Raises:
    UserError: The API does not have the accelerator, or a flag is missing.
  """
  tpu = job.slice()
  if not tpu.generation.tpu_api:
    raise UserError(
      f"--accelerator={job.accelerator}: the Cloud TPU API has no TPU7x;"
      " launch with --where=gke or compute-engine"
    )
  return cloud_slices.plan(job, tpu, "tpu_vm.sh")

"""Launches with SkyPilot: a managed job for each run, on any of its clouds."""

from typing import Any

from perceiver_jax.errors import UserError
from scripts.launch import job as job_lib
from scripts.launch import machines, rendering

# Flags of `scripts.launch` that have an effect here, beside those of all.
FLAGS = ("accelerator", "hosts", "spot", "zone", "mounts")


def plan(job: job_lib.Job) -> job_lib.Plan:
  """Returns a task for each run.

  Raises:
    UserError: SkyPilot does not have the accelerator, or the results would be
      lost.
  """
  job_lib.check_remote(job)
  accelerator, arguments = _accelerator(job)
  files, commands = {}, []
  for name, run in zip(job.names(), job.runs, strict=True):
    files[f"{name}.yaml"] = rendering.render(
      "skypilot.yaml",
      name=name,
      job=job,
      run=run,
      command=run.command(job_lib.REMOTE_PYTHON),
      accelerator=accelerator,
      arguments=arguments,
      extras=job_lib.extras(job, _extra(job)),
      buckets=job_lib.buckets(job),
      infra=_infra(job.zone) if job.zone else "",
    )
    commands.append(
      ["sky", "jobs", "launch", "--yes", "--detach-run",
       str(job.out / f"{name}.yaml")]
    )  # fmt: skip
  return job_lib.Plan(files, commands)


def _accelerator(job: job_lib.Job) -> tuple[str, dict[str, Any]]:
  """Returns SkyPilot's name of the accelerator, and its arguments."""
  if not machines.is_tpu(job.accelerator):
    job_lib.check_gpus(job.accelerator)
    return job.accelerator, {}
  tpu = job.slice()
  if not tpu.generation.tpu_api:
    raise UserError(
      f"--accelerator={job.accelerator}: SkyPilot gets TPUs from the Cloud TPU"
      " API, which has no TPU7x; launch with --where=gke or compute-engine"
    )
  return f"tpu-{tpu.accelerator_type}", {
    "runtime_version": tpu.generation.runtime_version,
    "tpu_vm": True,
  }


def _extra(job: job_lib.Job) -> str:
  """Returns the extra of setup.py that the accelerator needs."""
  if machines.is_tpu(job.accelerator):
    return "tpu"
  return "cuda" if job.accelerator else ""


def _infra(zone: str) -> str:
  """Returns a zone of Google Cloud as SkyPilot writes it."""
  return f"gcp/{zone.rpartition('-')[0]}/{zone}"

"""Launches on Google Kubernetes Engine: a JobSet for each run, on TPUs."""

import re

from perceiver_jax.errors import UserError
from scripts.launch import job as job_lib
from scripts.launch import rendering

# Flags of `scripts.launch` that have an effect here, beside those of all.
FLAGS = ("accelerator", "spot", "mounts", "image", "queue")

# Names of Kueue's queues, which a label of the JobSet holds.
_QUEUE = re.compile(r"[a-z0-9]([-.a-z0-9]{0,61}[a-z0-9])?")

# Python of the image; see Dockerfile.
PYTHON = "/perceiver_jax/.venv/bin/python"


def plan(job: job_lib.Job) -> job_lib.Plan:
  """Returns a JobSet for each run, and the commands that build its image.

  Raises:
    UserError: There is no image, GKE does not have the accelerator, the name
      of the queue is invalid, or the results would be lost.
  """
  job_lib.check_remote(job)
  tpu = job.slice()
  if not job.image:
    raise UserError(
      "--image is missing; name an image that you can push to and the cluster"
      " can pull, as in europe-docker.pkg.dev/PROJECT/REPOSITORY/perceiver_jax"
    )
  if not tpu.generation.gke_accelerator:
    raise UserError(
      f"--accelerator={job.accelerator}: GKE is supported for v4 and later;"
      " launch with --where=tpu-vm"
    )
  if job.queue and not _QUEUE.fullmatch(job.queue):
    raise UserError(
      f"--queue={job.queue} is no name of a queue of Kueue; give the name of a"
      " LocalQueue: at most 63 lower-case letters, digits, '-' and '.'"
    )
  files = {}
  commands = [
    ["docker", "build", "--target=tpu", f"--tag={job.image}", str(job.root)],
    ["docker", "push", job.image],
  ]
  for name, run in zip(job.names(), job.runs, strict=True):
    files[f"{name}.yaml"] = rendering.render(
      "gke.yaml",
      name=name,
      job=job,
      run=run,
      command=run.command(PYTHON),
      tpu=tpu,
      buckets=job_lib.buckets(job),
    )
    path = str(job.out / f"{name}.yaml")
    commands.append(["kubectl", "apply", f"--filename={path}"])
  return job_lib.Plan(files, commands)

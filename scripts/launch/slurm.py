"""Launches on a cluster with Slurm: one batch job, or an array for a sweep."""

import math
import re

from perceiver_jax.errors import UserError
from scripts.launch import job as job_lib
from scripts.launch import machines, rendering

# Flags of `scripts.launch` that have an effect here, beside those of all.
FLAGS = ("accelerator", "hosts", "hours", "queue")

# Names of partitions, separated by commas.
_QUEUE = re.compile(r"[\w.,-]+")

# Seconds before the time limit at which a run is asked to save.
_NOTICE = 300


def plan(job: job_lib.Job) -> job_lib.Plan:
  """Returns a batch script.

  Raises:
    UserError: The job needs what Slurm does not have, or less time than a run
      takes to save, or the name of the queue is invalid.
  """
  if machines.is_tpu(job.accelerator):
    raise UserError(
      f"--accelerator={job.accelerator}: give GPUs on Slurm, as in A100:8 or"
      " 8, or another --where"
    )
  job_lib.check_gpus(job.accelerator)
  if job.queue and not _QUEUE.fullmatch(job.queue):
    raise UserError(
      f"--queue={job.queue} is no name of a partition; give letters, digits,"
      " '_', '-' and '.', with commas between several partitions"
    )
  if not math.isfinite(job.hours):
    raise UserError(f"--hours={job.hours} is no time limit; give a number")
  minutes = round(60 * job.hours)
  if 60 * minutes < 2 * _NOTICE:
    raise UserError(
      f"--hours={job.hours:g} is too short to train and save; give at least"
      f" {2 * _NOTICE / 3600:.2g}"
    )
  text = rendering.render(
    "slurm.sh",
    job=job,
    time=f"{minutes // 60}:{minutes % 60:02}:00",
    gpus=_gpus(job.accelerator),
    notice=_NOTICE,
    commands=[run.command(job.python) for run in job.runs],
    log=job.out / ("%A_%a.log" if len(job.runs) > 1 else "%j.log"),
  )
  return job_lib.Plan({"job.sh": text}, [["sbatch", str(job.out / "job.sh")]])


def _gpus(accelerator: str) -> str:
  """Returns the value of --gpus-per-node, such as "a100:8" or "8"."""
  if accelerator.isdecimal():
    return accelerator
  name, _, number = accelerator.partition(":")
  return f"{name.lower()}:{number or 1}" if accelerator else ""

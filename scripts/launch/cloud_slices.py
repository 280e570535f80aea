"""The scripts that tpu-vm and compute-engine have in common.

Each run has a script that creates a slice, trains on it, creates it again after
a preemption, and deletes it in the end. It copies two more scripts to the
hosts: one installs the checkout, and one trains, again after status 75.
"""

from perceiver_jax.errors import UserError
from scripts.launch import job as job_lib
from scripts.launch import machines, rendering


def plan(job: job_lib.Job, tpu: machines.Slice, template: str) -> job_lib.Plan:
  """Returns the scripts of each run.

  Args:
    job: The job.
    tpu: Its slice.
    template: Name of the script's template.

  Raises:
    UserError: The project or zone is missing, or the results would be lost.
  """
  job_lib.check_remote(job)
  for name in ("project", "zone"):
    if not getattr(job, name):
      raise UserError(f"--{name} is missing; give that of Google Cloud")
  buckets = job_lib.buckets(job)
  files = {
    "setup.sh": rendering.render(
      "setup.sh", buckets=buckets, extras=job_lib.extras(job, "tpu")
    )
  }
  commands = []
  for name, run in zip(job.names(), job.runs, strict=True):
    files[f"{name}.worker.sh"] = rendering.render(
      "worker.sh",
      tpu=tpu,
      command=run.command(job_lib.REMOTE_PYTHON),
    )
    files[f"{name}.sh"] = rendering.render(
      template, name=name, job=job, run=run, tpu=tpu,
      image_project=machines.IMAGE_PROJECT,
    )  # fmt: skip
    commands.append(["bash", str(job.out / f"{name}.sh"), "up"])
  return job_lib.Plan(files, commands, together=len(commands) > 1)

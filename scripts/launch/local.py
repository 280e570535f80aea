"""Launches on this machine: a run, or a sweep with `scripts.sweep`."""

from scripts.launch import job as job_lib
from scripts.launch import rendering

# Flags of `scripts.launch` that have an effect here, beside those of all.
FLAGS = ("parallel",)


def plan(job: job_lib.Job) -> job_lib.Plan:
  """Returns a script that trains, whose exit status is that of training."""
  command = job.sweep_command or job.runs[0].command(job.python)
  text = rendering.render("local.sh", root=job.root, command=command)
  return job_lib.Plan({"run.sh": text}, [["bash", str(job.out / "run.sh")]])

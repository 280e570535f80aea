"""The launchers by the value of --where; each has `plan(job)` and `FLAGS`."""

from scripts.launch import (
  compute_engine,
  gke,
  local,
  skypilot,
  slurm,
  tpu_vm,
)

LAUNCHERS = {
  "local": local,
  "slurm": slurm,
  "skypilot": skypilot,
  "gke": gke,
  "tpu-vm": tpu_vm,
  "compute-engine": compute_engine,
}

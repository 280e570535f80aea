r"""Trains a config at every point of a named sweep.

  python -m scripts.sweep --config=configs/imagenet.py:figure5 \
    --sweep=figure5_latents --out=runs/figure5

A config file defines a sweep as a generator `sweep_NAME()` of points, each a
mapping of leaves to values:

  def sweep_rates():
    for rate in (1e-3, 2e-3, 4e-3):
      yield {"optimizer.learning_rate": rate}

A point may also name another `variant` of the file, to compare models. The runs
are trained one after the other in OUT/learning_rate=0.001 and so on,
named by the leaves that differ. The same command resumes a sweep that was
stopped; finished runs are not repeated, and a run that fails does not stop the
others. Arguments after `--` go to every run:

  python -m scripts.sweep --config=configs/imagenet.py:figure5,smoke \
    --sweep=figure5_latents --out=runs/smoke -- --config.seed=3

The final metrics of all runs are in OUT/sweep.csv and OUT/sweep.md. Exit
status: 0 done; 1 a run failed; 75 or 130 stopped early, and the same command
resumes the sweep.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import launch
from perceiver_jax.errors import UserError
from scripts.sweeps import points, runs, table

_CONFIG = flags.DEFINE_string(
  "config",
  None,
  "Config file with its variant, configs/NAME.py:VARIANT. Set leaves of all"
  " runs after --, as in `-- --config.LEAF=VALUE`.",
)
_SWEEP = flags.DEFINE_string("sweep", None, "NAME of a sweep_NAME() in it.")
_OUT = flags.DEFINE_string("out", None, "Folder of the runs.")

_FAILED = 1


def main(argv: Sequence[str]) -> int:
  """Trains all points and writes the table of their results."""
  for name in ("config", "sweep", "out"):
    if not flags.FLAGS[name].value:
      raise UserError(f"--{name} is missing; --help lists the flags")
  out = Path(_OUT.value).expanduser()
  sweep = points.runs(_CONFIG.value, _SWEEP.value, argv[1:])
  for run in sweep:  # Report mistakes before any work.
    runs.check_same(out / run.name, run.flags)
  statuses = _train_all(out, sweep)
  rows = [
    table.Row(run.name, run.point, statuses.get(run.name), out / run.name)
    for run in sweep
  ]
  print(table.write(out, rows))
  failed = [run.name for run in sweep if statuses.get(run.name)]
  stopped = [s for s in statuses.values() if s in runs.STOPPED]
  if stopped:
    print("stopped; the same command resumes the sweep")
    return stopped[0]
  if failed:
    print(f"failed: {', '.join(failed)}; the same command tries them again")
  return _FAILED if failed else 0


def _train_all(out: Path, sweep: Sequence[points.Run]) -> dict[str, int]:
  """Trains the runs in order; returns the exit status of each one reached."""
  statuses: dict[str, int] = {}
  seconds: list[float] = []
  for number, run in enumerate(sweep, 1):
    title, folder = f"[{number}/{len(sweep)}] {run.name}", out / run.name
    if runs.is_finished(folder):
      print(f"{title}: finished before", flush=True)
      statuses[run.name] = 0
      continue
    print(f"{title}{_remaining(seconds, len(sweep) + 1 - number)}", flush=True)
    start = time.monotonic()
    statuses[run.name] = runs.train(folder, run.flags)
    seconds.append(time.monotonic() - start)
    if statuses[run.name] in runs.STOPPED:
      break
    if statuses[run.name]:
      print(f"{title}: failed with status {statuses[run.name]}", flush=True)
  return statuses


def _remaining(seconds: Sequence[float], count: int) -> str:
  """Formats the estimated time of `count` runs; "" before the first ended."""
  if not seconds:
    return ""
  minutes = count * sum(seconds) / len(seconds) / 60
  return f": about {minutes:,.0f} min for the remaining {count}"


if __name__ == "__main__":
  launch.run(main)

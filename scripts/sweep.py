r"""Trains a config at every point of named sweeps.

  python -m scripts.sweep --config=configs/imagenet.py:figure5 \
    --sweep=figure5_latents --out=runs/figure5

A config file defines a sweep as a generator `sweep_NAME()` of points, each a
mapping of leaves to values:

  def sweep_rates():
    for rate in (1e-3, 2e-3, 4e-3):
      yield {"optimizer.learning_rate": rate}

A point may also name another `variant` of the file, to compare models.
`sweep()` is called "sweep", and `get_hyper(h)` in the manner of Google's
codebases "hyper". Several sweeps, as in --sweep=rates,seeds, are multiplied.
The runs are trained in OUT/learning_rate=0.001 and so on, named by the leaves
that differ, --parallel of them at a time. Arguments after `--` go to every run:

  python -m scripts.sweep --config=configs/imagenet.py:figure5,smoke \
    --sweep=figure5_latents --out=runs/smoke -- --config.seed=3

The same command resumes a sweep that was stopped and joins one that runs;
finished runs are not repeated, and one that fails does not stop the others.

With --search=tpe (or random) Optuna proposes --trials points instead, from a
function `search_NAME(trial)` of the config file:

  def search_rates(trial):
    return {"optimizer.learning_rate":
              trial.suggest_float("rate", 1e-4, 1e-2, log=True)}

The final metrics of all runs are in OUT/sweep.csv and OUT/sweep.md, and
OUT/sweep.html has plots too. Exit status: 0 done; 1 a run failed; 75 or 130
stopped early, and the same command resumes the sweep.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from experiments import launch
from perceiver_jax import files
from perceiver_jax.errors import UserError
from scripts.sweeps import (
  definitions,
  points,
  runs,
  schedule,
  sweep_flags,
  table,
)
from scripts.sweeps import search as search_lib

_CONFIG = sweep_flags.define_config()
_SWEEP = sweep_flags.define_sweep()
_OUT = flags.DEFINE_string("out", None, "Folder of the runs.")
_PARALLEL = sweep_flags.define_parallel()
_SEARCH = flags.DEFINE_enum(
  "search", None, search_lib.SAMPLERS, "Let Optuna propose the points."
)
_TRIALS = flags.DEFINE_integer("trials", 20, "Number of points it proposes.", 1)
_SEARCH_SEED = flags.DEFINE_integer("search_seed", 0, "Seed of --search.", 0)

_FAILED = 1


def main(argv: Sequence[str]) -> int:
  """Trains all points and writes the tables of their results."""
  for name in ("config", "sweep", "out"):
    if not flags.FLAGS[name].value:
      raise UserError(f"--{name} is missing; --help lists the flags")
  files.check_takes_checkpoints(_OUT.value, "--out")
  out = files.as_path(_OUT.value).expanduser()
  work = _search if _SEARCH.value else _sweep
  sweep, statuses, stopped = work(out, argv[1:])
  print(_write(out, sweep, statuses))
  failed = [run.name for run in sweep if statuses.get(run.name)]
  if stopped:
    print("stopped; the same command resumes the sweep")
    return stopped
  if failed:
    again = "" if _SEARCH.value else "; the same command tries them again"
    print(f"failed: {', '.join(failed)}{again}")
  return _FAILED if failed else 0


def _sweep(
  out: Path, others: Sequence[str]
) -> tuple[Sequence[points.Run], Mapping[str, int], int]:
  """Trains the runs of the sweep; returns them, their statuses, and 75 or 0."""
  sweep = points.runs(_CONFIG.value, _SWEEP.value, others)
  runs.check_sweep(out, {"runs": [run.name for run in sweep]})
  for run in sweep:  # Report mistakes before any work.
    runs.check_same(out / run.name, run.flags)

  def ended(*_: object) -> None:  # The tables grow while the sweep runs.
    table.write(out, _rows(out, sweep, plan.statuses))

  plan = schedule.Schedule(out, sweep, _PARALLEL.value, len(sweep), ended=ended)
  plan.run()
  return sweep, plan.statuses, plan.stopped


def _search(
  out: Path, others: Sequence[str]
) -> tuple[Sequence[points.Run], Mapping[str, int], int]:
  """Trains the runs that a search proposes, like `_sweep`.

  Raises:
    UserError: Several sweeps are named, which only grids can be, or --out is in
      a bucket.
  """
  if files.is_remote(out):
    raise UserError(
      f"--out={out} with --search: Optuna's journal needs a folder on a disk;"
      " give a local --out"
    )
  if len(_SWEEP.value) > 1:
    raise UserError(
      f"--sweep={','.join(_SWEEP.value)} with --search: name one search_NAME()"
    )
  (name,) = _SWEEP.value
  search = search_lib.Search(
    out,
    _SEARCH.value,
    _TRIALS.value,
    _SEARCH_SEED.value,
    definitions.load_search(_CONFIG.value, name),
    _CONFIG.value,
    others,
  )
  runs.check_sweep(out, {"runs": [], "search": name, "flags": [*others]})

  def ended(run: points.Run, status: int) -> None:
    search.ended(run, status)
    every = search.runs()
    table.write(out, _rows(out, [r for r, _ in every], _ended(every)))

  plan = schedule.Schedule(
    out,
    search.pending(),
    _PARALLEL.value,
    _TRIALS.value,
    search.more,
    ended,
  )
  plan.run()
  every = search.runs()
  statuses = _ended(every) | plan.statuses
  return [run for run, _ in every], statuses, plan.stopped


def _ended(
  every: Sequence[tuple[points.Run, int | None]],
) -> dict[str, int]:
  """Returns the statuses of the runs of a search that have ended."""
  return {run.name: status for run, status in every if status is not None}


def _write(
  out: Path, sweep: Sequence[points.Run], statuses: Mapping[str, int]
) -> str:
  """Writes the tables and the page; returns the Markdown table."""
  rows = _rows(out, sweep, statuses)
  text = table.write(out, rows)
  if any(row.status == 0 for row in rows):
    # Imports Matplotlib, which takes seconds.
    from scripts.sweeps import page

    metric, mode = points.primary_metric(points.check_flags(sweep[0].flags))
    page.write(out, rows, [run.flags for run in sweep], metric, mode)
  return text


def _rows(
  out: Path, sweep: Sequence[points.Run], statuses: Mapping[str, int]
) -> list[table.Row]:
  return [
    table.Row(run.name, run.point, statuses.get(run.name), out / run.name)
    for run in sweep
  ]


if __name__ == "__main__":
  launch.run(main)

r"""Fine-tunes on GLUE tasks over the paper's grid (Perceiver IO v3, Table 13).

  python -m scripts.sweeps.glue --init_from=runs/mlm --out=runs/glue

trains a run of configs/glue.py for each task, batch size (16, 32, 64) and
learning rate (1e-4, 5e-5, 2e-5, 1e-5), --parallel of them at a time, into
OUT/TASK/batch16-rate1e-4 and so on. The same command resumes a sweep that was
stopped, and joins one that runs; finished runs are not repeated, and one that
fails does not stop the others. Arguments after `--` go to every run:

  python -m scripts.sweeps.glue --tasks=cola,rte --model=bytes_plus_plus \
    --init_from=runs/mlm --out=runs/glue -- --config.precision=bfloat16

Prints the best dev-set metric of each task, over the grid and the epochs, and
their average beside the published ones, and writes them to OUT/sweep.json. A
run of the byte model keeps two checkpoints and an export, 6 GB. To use several
machines, give each a part of --tasks; then run the sweep with all tasks, which
collects the finished runs into the table.
"""

import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from configs import glue as config_file
from experiments import launch
from perceiver_jax import files
from perceiver_jax.data.text import glue_tasks
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import glue_metrics
from perceiver_jax.training.logs import metric_writers
from scripts.sweeps import points, runs, schedule, sweep_flags

_TASKS = flags.DEFINE_list(
  "tasks", list(glue_tasks.GLUE), "Variants of configs/glue.py."
)
_MODEL = flags.DEFINE_string("model", "", "Model variant of configs/glue.py.")
_INIT_FROM = flags.DEFINE_string(
  "init_from", "", "Run or file of the pretrained model."
)
_OUT = flags.DEFINE_string("out", "runs/glue", "Folder of the runs.")
_BATCHES = flags.DEFINE_list("batch_sizes", ["16", "32", "64"], "Batch sizes.")
_RATES = flags.DEFINE_list(
  "learning_rates", ["1e-4", "5e-5", "2e-5", "1e-5"], "Learning rates."
)
_PARALLEL = sweep_flags.define_parallel()


def main(argv: Sequence[str]) -> None:
  """Runs the grid and prints the table."""
  for name in ("tasks", "init_from", "out", "batch_sizes", "learning_rates"):
    if not flags.FLAGS[name].value:
      raise UserError(f"--{name} is missing; --help lists the flags")
  files.check_takes_checkpoints(_OUT.value, "--out")
  out = files.as_path(_OUT.value).expanduser()
  # Report mistyped flags before any work.
  for name, kind in (("batch_sizes", int), ("learning_rates", float)):
    _check_numbers(name, flags.FLAGS[name].value, kind)
  sweep = {task: _runs(task, argv[1:]) for task in _TASKS.value}
  every = list(itertools.chain.from_iterable(sweep.values()))
  for run in every:
    points.check_flags(run.flags)
  for run in every:
    runs.check_same(out / run.name, run.flags)
  plan = schedule.Schedule(out, every, _PARALLEL.value, len(every))
  plan.run()
  if plan.stopped:
    sys.exit(plan.stopped)
  failed = [
    f"{out / name} (status {status})"
    for name, status in plan.statuses.items()
    if status
  ]
  if failed:
    raise UserError(
      f"these runs failed: {', '.join(failed)}; fix what their errors say, and"
      " give the same command again, or other flags with another --out"
    )
  best = {}
  for task, tried in sweep.items():
    evaluations = [_best_evaluation(out / run.name) for run in tried]
    best[task] = max(evaluations, key=lambda run: run["average"])
  table = {"best": best, "average": _average(best)}
  metric_writers.write_json(out / "sweep.json", table)
  print(_text(best, table["average"]))


def _check_numbers(
  name: str, values: Sequence[str], kind: Callable[[str], Any]
) -> None:
  advice = "give numbers above 0, separated by commas"
  try:
    numbers = list(map(kind, values))
  except ValueError as error:
    raise UserError(f"--{name}: {error}; {advice}") from error
  if not all(0 < number < math.inf for number in numbers):
    raise UserError(f"--{name}={','.join(values)}: {advice}")


def _variant(task: str) -> str:
  return ",".join(part for part in (task, _MODEL.value) if part)


def _runs(task: str, others: Sequence[str]) -> list[points.Run]:
  """Returns the runs of a task over the grid."""
  config_file.get_config(_variant(task))
  result = []
  for batch, rate in itertools.product(_BATCHES.value, _RATES.value):
    point = {"batch_size": batch, "optimizer.learning_rate": rate}
    config = f"--config={config_file.__file__}:{_variant(task)}"
    flags_of_run = [
      config,
      *(f"--config.{leaf}={value}" for leaf, value in point.items()),
      f"--config.init_from={_INIT_FROM.value}",
      "--config.checkpoint.keep_latest=1",
      *others,
    ]
    name = f"{task}/batch{batch}-rate{rate}"
    result.append(points.Run(name, point, flags_of_run))
  return result


def _best_evaluation(folder: Path) -> dict[str, Any]:
  """Returns the evaluation of a run with the best average."""
  records = metric_writers.read_metrics(folder / "metrics.jsonl")
  measured = [r for r in records if "glue/average" in r]
  best = max(measured, key=lambda record: record["glue/average"])
  metrics = {
    name: value
    for name, value in best.items()
    if name.partition("/")[0] not in ("train", "speed", "step", "glue")
  }
  return {
    "average": best["glue/average"],
    "step": best["step"],
    "metrics": metrics,
    "folder": str(folder),
  }


def _average(best: Mapping[str, Mapping[str, Any]]) -> float:
  return glue_metrics.glue_average(
    {t: run["average"] for t, run in best.items()}
  )


def _published(task: str) -> float | None:
  """Returns the published `glue/average` of a variant."""
  row = config_file.get_config(_variant(task)).published.to_dict()
  row.pop("source", None)
  return row.get("average") or (glue_metrics.glue_average(row) if row else None)


def _text(best: Mapping[str, Mapping[str, Any]], average: float) -> str:
  """Formats a line per task: best metric, published metric, and folder."""
  lines = [f"{'task':<28}{'dev':>8}{'published':>11}  run"]
  row = {task: _published(task) for task in best}
  for task, run in best.items():
    published = _percent(row[task])
    lines.append(
      f"{task:<28}{run['average']:>8.2%}{published:>11}  {run['folder']}"
    )
  whole = set(best) == set(glue_tasks.GLUE)
  published = _percent(
    config_file.published_average(_MODEL.value) if whole else None
  )
  return "\n".join([*lines, f"{'average':<28}{average:>8.2%}{published:>11}"])


def _percent(share: float | None) -> str:
  return "–" if share is None else f"{share:.2%}"


if __name__ == "__main__":
  launch.run(main)

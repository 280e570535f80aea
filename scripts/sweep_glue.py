r"""Fine-tunes on GLUE tasks over the paper's grid (IO, app. F, Table 13).

  python -m scripts.sweep_glue --init_from=runs/mlm --out=runs/glue

Trains a run of configs/glue.py for each task, batch (16, 32, 64) and learning
rate (1e-4, 5e-5, 2e-5, 1e-5), one after the other, into
OUT/TASK/batch16-rate1e-04 and so on. It goes on where it was stopped: finished
runs are not run again. What follows `--` goes to every run:

  python -m scripts.sweep_glue --tasks=cola,rte --model=bytes_plus_plus \
    --init_from=runs/mlm --out=runs/glue -- --config.precision=bfloat16

The best of each task on the dev set, over the grid and the epochs, and their
average, are printed beside the published row and written to OUT/sweep.json. On
several machines, give each a part of --tasks; the last, started again with all
of them, finds the others' runs and makes the table.
"""

import itertools
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from configs import glue as config_file
from experiments import launch
from perceiver_jax.data import glue_tasks
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import scores
from perceiver_jax.training import writers

_TASKS = flags.DEFINE_list(
  "tasks", list(glue_tasks.GLUE), "Variants of configs/glue.py."
)
_MODEL = flags.DEFINE_string("model", "", "Model, as in configs/glue.py.")
_INIT_FROM = flags.DEFINE_string("init_from", "", "The pretrained model.")
_OUT = flags.DEFINE_string("out", "runs/glue", "Folder of the runs.")
_BATCHES = flags.DEFINE_list("batch_sizes", ["16", "32", "64"], "The grid's.")
_RATES = flags.DEFINE_list(
  "learning_rates", ["1e-4", "5e-5", "2e-5", "1e-5"], "The grid's."
)
# Exit statuses of a run that saved itself; see `experiments.launch`.
_STOPPED = (75, 130)


def main(argv: Sequence[str]) -> None:
  """Runs the grid and prints the table."""
  out = Path(_OUT.value).expanduser()
  best = {}
  for task in _TASKS.value:
    config_file.get_config(_variant(task))  # Typing errors before any work.
  for task in _TASKS.value:
    runs = [
      _run(task, out, batch, rate, argv[1:])
      for batch, rate in itertools.product(_BATCHES.value, _RATES.value)
    ]
    best[task] = max(runs, key=lambda run: run["average"])
  table = {"best": best, "average": _average(best)}
  writers.write_json(out / "sweep.json", table)
  print(_text(best, table["average"]))


def _variant(task: str) -> str:
  return ",".join(part for part in (task, _MODEL.value) if part)


def _run(
  task: str, out: Path, batch: str, rate: str, others: Sequence[str]
) -> dict[str, Any]:
  """Trains, or finds, a run; its best evaluation."""
  folder = out / task / f"batch{batch}-rate{float(rate):.0e}"
  if not (folder / "results.json").exists():
    command = [
      sys.executable, "-m", "experiments.train", f"--workdir={folder}",
      f"--config={config_file.__file__}:{_variant(task)}",
      f"--config.batch_size={batch}",
      f"--config.optimizer.learning_rate={rate}",
      f"--config.init_from={_INIT_FROM.value}", *others,
    ]  # fmt: skip
    print(" ".join(command[1:]), flush=True)
    status = _finish(subprocess.Popen(command))
    if status in _STOPPED:
      sys.exit(status)
    if status:
      raise UserError(
        f"the run in {folder} ended with status {status}; mend what it says"
        " and start the same sweep again"
      )
  return {**_best_evaluation(folder), "folder": str(folder)}


def _finish(process: subprocess.Popen) -> int:
  """Waits for a run, which saves itself on Ctrl-C before it ends."""
  try:
    return process.wait()
  except KeyboardInterrupt:
    return process.wait()


def _best_evaluation(folder: Path) -> dict[str, Any]:
  """The metrics of the evaluation with the best average, and its step."""
  records = writers.read_metrics(folder / "metrics.jsonl")
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
  }


def _average(best: Mapping[str, Mapping[str, Any]]) -> float:
  return scores.glue_average({t: run["average"] for t, run in best.items()})


def _text(best: Mapping[str, Mapping[str, Any]], average: float) -> str:
  """A line a task: our best, the published score, and where it is."""
  lines = [f"{'task':<28}{'dev':>8}{'published':>11}  run"]
  for task, run in best.items():
    config = config_file.get_config(_variant(task))
    row = [v for k, v in config.published.items() if k != "source"]
    theirs = f"{sum(row) / len(row):.2%}" if row else "–"
    lines.append(
      f"{task:<28}{run['average']:>8.2%}{theirs:>11}  {run['folder']}"
    )
  return "\n".join([*lines, f"{'average':<28}{average:>8.2%}"])


if __name__ == "__main__":
  launch.run(main)

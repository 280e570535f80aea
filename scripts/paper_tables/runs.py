"""Finds runs and evaluations, and the papers' rows that they reproduce."""

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from perceiver_jax import files as files_lib
from perceiver_jax.data.text import glue_tasks
from perceiver_jax.errors import UserError
from perceiver_jax.files import read_json
from perceiver_jax.weights.deepmind import files as deepmind_files
from scripts.paper_tables import recipes

GLUE_SWEEP = recipes.GLUE_SWEEP
# Leaves that scripts.sweeps.glue chooses.
_GRID = ("batch_size", "optimizer.learning_rate")
BENCHMARK = "scripts.benchmark --published --models="
# Errors of a file whose contents are not what they should be.
_DAMAGED = (AttributeError, LookupError, OSError, TypeError, ValueError)
_RELEASED = {release.file for release in deepmind_files.RELEASES}


class Result(NamedTuple):
  """A run, or an evaluation of weights.

  Attributes:
    name: Name of its folder or file.
    path: What to open: the run's report, or the file.
    origin: Config variant or script of the rows that it reproduces; "" if none.
    metrics: Metrics by name, as stored.
    config: Config of the run; empty for an evaluation of weights.
    nearest: The variant that its config differs from least.
    differences: Leaves that differ from that variant, with their values.
    weights: File of the weights that were evaluated; "" for a run.
    device: What a benchmark ran on; "" for a run.
  """

  name: str
  path: Path
  origin: str
  metrics: Mapping[str, float]
  config: Mapping[str, Any]
  nearest: str = ""
  differences: Sequence[str] = ()
  weights: str = ""
  device: str = ""

  def metric(self, name: str) -> float | None:
    """Returns a metric of `tables.metrics`, or None if it was not measured."""
    task = glue_tasks.TASKS.get(name.split("_")[0])
    keys = [name, f"eval/{name}", f"glue/{name}", f"{name}/epe"]
    keys += [f"{name}/{task.metrics[0]}"] if task else []
    return next((self.metrics[k] for k in keys if k in self.metrics), None)


def collect(paths: Sequence[Path]) -> list[Result]:
  """Reads all runs and evaluations below some folders.

  Args:
    paths: Folders of runs, of folders of runs, or of evaluations; or files of
      evaluations.

  Raises:
    UserError: A folder does not exist or has neither.
  """
  results = []
  for path in paths:
    found = list(_read_all(path))
    if not found:
      raise UserError(
        f"--runs={path} has no finished run (results.json), no sweep.json and"
        " no JSON file of an evaluation or benchmark; give a folder that has"
      )
    results += found
  return results


def _read_all(path: Path) -> Iterator[Result]:
  files = [path] if path.is_file() else files_lib.below(path, ".json")
  sweeps = {file.parent for file in files if file.name == "sweep.json"}
  for file in files:
    if sweeps & {*file.parent.parents}:
      continue  # One of the runs that the sweep's own file sums up.
    try:
      content = read_json(file)
    except (OSError, ValueError):
      continue
    if not isinstance(content, dict):
      continue
    try:
      found = list(_results(file, content))
    except UserError:  # A bucket can't be read.
      raise
    except _DAMAGED as error:
      _warn_of_damage(file, error)
      continue
    yield from found


def _results(file: Path, content: Mapping[str, Any]) -> Iterator[Result]:
  """Yields the results of a file of JSON; none if it is of another kind."""
  if file.name == "results.json":
    yield from _run(file.parent, content)
  elif file.name == "sweep.json" and "best" in content:
    yield _glue_sweep(file, content)
  elif {"weights", "metrics", "config"} <= content.keys():
    yield _evaluation(file, content)
  elif "device" in content and "rows" in content:
    yield from _benchmarks(file, content)


def _warn_of_damage(file: Path, error: Exception) -> None:
  logging.warning(
    "%s is damaged or incomplete (%s: %s); skipped",
    file,
    type(error).__name__,
    error,
  )


def _run(folder: Path, results: Mapping[str, Any]) -> Iterator[Result]:
  """Yields a finished run, or nothing if its config is missing."""
  config = recipes.config_of_run(folder)
  if config is None or "metrics" not in results:
    logging.warning("%s has no config.json or no metrics; skipped", folder)
    return
  nearest, differences = _trained(config, recipes.variants())
  yield Result(
    name=folder.name,
    path=folder / "report.html",
    origin="" if differences else nearest,
    metrics=_evaluations(folder) | results["metrics"],
    config=config,
    nearest=nearest,
    differences=differences,
  )


def _trained(
  config: Mapping[str, Any], variants: Sequence[str], free: Sequence[str] = ()
) -> tuple[str, list[str]]:
  """Returns the variant nearest to a run, and how the run differs from it."""
  nearest, differences = recipes.nearest(config, variants, free)
  if nearest:
    differences += recipes.pretraining_differences(
      config.get("init_from", ""), nearest
    )
  return nearest, differences


def _evaluations(folder: Path) -> dict[str, float]:
  """Returns the metrics of the latest checkpoint that was evaluated."""
  files = {
    int(file.stem.partition("-")[2]): file
    for file in folder.glob("evaluation-*.json")
    if file.stem.partition("-")[2].isdecimal()
  }
  if not files:
    return {}
  latest = files[max(files)]
  try:
    return dict(read_json(latest)["metrics"])
  except _DAMAGED as error:
    _warn_of_damage(latest, error)
    return {}


def _evaluation(file: Path, content: Mapping[str, Any]) -> Result:
  """Returns an evaluation of weights by `experiments.evaluate --weights`."""
  variant = _variant(content["config"], content.get("variant", ""))
  nearest, differences = _evaluated(variant, content.get("overrides", {}))
  differences += content.get("differences", ())
  metrics, origin = content["metrics"], nearest
  free: tuple[str, ...] = ()
  task, _, model = nearest.partition(":")[2].partition(",")
  if nearest.startswith("configs/glue.py:") and task in glue_tasks.GLUE:
    # A task's metrics are cells of the sweep's row, and not its average.
    origin, free = f"{GLUE_SWEEP}{model}", _GRID
    metrics = {k: v for k, v in metrics.items() if k != "glue/average"}
  differences += _differences_of_weights(content["weights"], nearest, free)
  return Result(
    name=file.stem,
    path=file,
    origin="" if differences else origin,
    metrics=metrics,
    config={"task": content.get("task", "")},
    nearest=nearest,
    differences=differences,
    weights=str(content["weights"]),
  )


def _benchmarks(file: Path, content: Mapping[str, Any]) -> Iterator[Result]:
  """Returns what `scripts.benchmark --published --json` measured."""
  device = content["device"]
  columns = {"steps/s": "steps_per_second", "training GFLOP": "train_flops"}
  if "TPU" in device:
    columns["frames/s"] = "tpu_frames"
  elif device != "cpu":  # The papers have no speed of processors.
    columns["frames/s"] = "gpu_frames"
  for row in content["rows"]:
    if row.get("measured on") == device:
      batch = f", batch {row['batch']}" if "batch" in row else ""
      yield Result(
        name=file.stem,
        path=file,
        origin=f"{BENCHMARK}{row['model']}",
        metrics={columns[key]: row[key] for key in columns if key in row},
        config={},
        device=f"{device}{batch}",
      )


def _evaluated(
  variant: str, overrides: Mapping[str, Any]
) -> tuple[str, list[str]]:
  """Returns the row's variant that was evaluated, and how it was changed."""
  known = (*recipes.variants(), *recipes.pretraining())
  if variant.partition(":")[0] not in {v.partition(":")[0] for v in known}:
    return variant, ["a config of its own"]
  config = recipes.with_overrides(variant, overrides)
  # The batch size of an evaluation changes nothing.
  return recipes.nearest(
    config, [variant] if variant in known else known, ("batch_size",)
  )


def _differences_of_weights(
  weights: str, variant: str, free: Sequence[str]
) -> list[str]:
  """Returns how the training of evaluated weights differs from a variant's."""
  if Path(weights).name in _RELEASED:
    return []
  config = recipes.config_of_run(weights)
  if config is None:
    return [f"{weights} is neither a released file nor of a finished run"]
  _, differences = _trained(config, [variant], free)
  return [f"weights: {line}" for line in differences]


def _variant(file: str, variant: str) -> str:
  """Returns a config's name as in the tables, with its default variant."""
  name = f"configs/{Path(file).name}"
  configs = {config.partition(":")[0] for config in recipes.variants()}
  if not variant and name in configs:
    module = importlib.import_module(f"configs.{Path(name).stem}")
    variant = inspect.signature(module.get_config).parameters["variant"].default
  if name == "configs/glue.py" and variant in glue_tasks.GLUE:
    variant += ",bytes"
  return f"{name}:{variant}"


def _glue_sweep(file: Path, sweep: Mapping[str, Any]) -> Result:
  """Returns the best runs of a sweep of scripts.sweeps.glue as one result."""
  metrics = {"average": sweep["average"]}
  differences: list[str] = []
  model = ""
  for task, best in sweep["best"].items():
    folder = file.parent / task / Path(best["folder"]).name
    config = read_json(folder / "config.json")
    start = f"configs/glue.py:{task},"
    variants = [v for v in recipes.pretraining() if v.startswith(start)]
    nearest, changed = _trained(config, variants, _GRID)
    model = nearest.rpartition(",")[2]
    metrics |= best["metrics"]
    differences += [f"{task}: {leaf}" for leaf in changed]
  missing = sorted({*glue_tasks.GLUE} - {*sweep["best"]})
  differences += [f"no run of {task}" for task in missing]
  return Result(
    name=file.parent.name,
    path=file,
    origin="" if differences else f"{GLUE_SWEEP}{model}",
    metrics=metrics,
    config={"task": "glue"},
    nearest=f"{GLUE_SWEEP}{model}",
    differences=differences,
  )

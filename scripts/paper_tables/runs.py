"""Finds runs and evaluations, and the papers' rows that they reproduce."""

import functools
import importlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from perceiver_jax.data.text import glue_tasks
from perceiver_jax.errors import UserError
from perceiver_jax.models.published import tables
from scripts.paper_tables import costs

# Leaves that do not change what is learned.
FREE_LEAVES = (
  "checkpoint", "eval_every_epochs", "eval_every_steps", "execution",
  "init_from", "log", "max_seconds", "num_microbatches", "num_parts",
  "precision", "published", "seed", "data.benchmarks", "data.num_workers",
  "data.source_args", "data.tokenizer",
)  # fmt: skip
# Leaves that scripts.sweeps.glue chooses.
_GRID = ("batch_size", "optimizer.learning_rate")
GLUE_SWEEP = "scripts.sweeps.glue --model="
BENCHMARK = "scripts.benchmark --published --models="
# Data sets that come with the code or are generated, not the papers' own.
_EMBEDDED = {
  "digits", "digit_pairs", "photos", "generated", "tiny", "python_docs",
  "rendered", "motorcycle",
}  # fmt: skip


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
  files = [path] if path.is_file() else sorted(path.rglob("*.json"))
  sweeps = {file.parent for file in files if file.name == "sweep.json"}
  for file in files:
    if sweeps & {*file.parent.parents}:
      continue  # One of the runs that the sweep's own file sums up.
    try:
      content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
      continue
    if not isinstance(content, dict):
      continue
    if file.name == "results.json":
      yield _run(file.parent, content)
    elif file.name == "sweep.json" and "best" in content:
      yield _glue_sweep(file, content)
    elif "weights" in content and "metrics" in content:
      yield _evaluation(file, content)
    elif "device" in content and "rows" in content:
      yield from _benchmarks(file, content)


def _run(folder: Path, results: Mapping[str, Any]) -> Result:
  config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
  variants = {c for row in tables.rows() for c in (row.config, *row.also)}
  nearest, differences = _nearest(config, sorted(variants - {""}))
  return Result(
    name=folder.name,
    path=folder / "report.html",
    origin="" if differences else nearest,
    metrics=_evaluations(folder) | results["metrics"],
    config=config,
    nearest=nearest,
    differences=differences,
  )


def _evaluations(folder: Path) -> dict[str, float]:
  """Returns the metrics of the latest checkpoint that was evaluated."""
  files = {
    int(file.stem.partition("-")[2]): file
    for file in folder.glob("evaluation-*.json")
    if file.stem.partition("-")[2].isdecimal()
  }
  if not files:
    return {}
  content = json.loads(files[max(files)].read_text(encoding="utf-8"))
  return content["metrics"]


def _evaluation(file: Path, content: Mapping[str, Any]) -> Result:
  """Returns an evaluation of weights by `experiments.evaluate --weights`."""
  nearest = _variant(content["config"], content.get("variant", ""))
  differences = list(content.get("differences", ()))
  differences += [
    f"{leaf} {value}"
    for leaf, value in content.get("overrides", {}).items()
    # Batches of an evaluation change nothing.
    if not _is_free(leaf, (*FREE_LEAVES, "batch_size"))
    and not (leaf.endswith("source") and value not in _EMBEDDED)
  ]
  return Result(
    name=file.stem,
    path=file,
    origin="" if differences else nearest,
    metrics=content["metrics"],
    config={"task": content.get("task", "")},
    nearest=nearest,
    differences=differences,
    weights=str(content["weights"]),
  )


def _benchmarks(file: Path, content: Mapping[str, Any]) -> Iterator[Result]:
  """Returns what `scripts.benchmark --published --json` measured."""
  device = content["device"]
  frames = "tpu_frames" if "TPU" in device else "gpu_frames"
  columns = {
    "steps/s": "steps_per_second",
    "training GFLOP": "train_flops",
    "frames/s": frames,
  }
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


def _variant(file: str, variant: str) -> str:
  """Returns a config's name as in the tables, with its default variant."""
  name = f"configs/{Path(file).name}"
  if not variant and Path(name).name in _config_files():
    module = importlib.import_module(f"configs.{Path(name).stem}")
    variant = inspect.signature(module.get_config).parameters["variant"].default
  return f"{name}:{variant}"


def _config_files() -> set[str]:
  configs = [row.config.partition(":")[0] for row in tables.rows()]
  return {Path(config).name for config in configs if config}


def _glue_sweep(file: Path, sweep: Mapping[str, Any]) -> Result:
  """Returns the best runs of a sweep of scripts.sweeps.glue as one result."""
  metrics = {"average": sweep["average"]}
  differences: list[str] = []
  model = ""
  for task, best in sweep["best"].items():
    folder = file.parent / task / Path(best["folder"]).name
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    variants = [
      f"configs/glue.py:{task},{row.script.removeprefix(GLUE_SWEEP)}"
      for row in tables.rows()
      if row.script.startswith(GLUE_SWEEP)
    ]
    nearest, changed = _nearest(config, variants, free=(*FREE_LEAVES, *_GRID))
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


def _nearest(
  config: Mapping[str, Any],
  variants: Sequence[str],
  free: Sequence[str] = FREE_LEAVES,
) -> tuple[str, list[str]]:
  """Returns the variant that a config is most like, and how they differ."""
  mine = _leaves(config)
  best: tuple[str, list[str]] | None = None
  for variant in variants:
    theirs = _leaves_of(variant)
    if mine.get("task") != theirs["task"]:
      continue
    different = [
      f"{leaf} {mine[leaf]}, not {theirs[leaf]}"
      if leaf in theirs
      else f"{leaf} {mine[leaf]}"
      for leaf in sorted(mine)
      if not _is_free(leaf, free) and not _is_same(leaf, mine, theirs)
    ]
    if best is None or len(different) < len(best[1]):
      best = variant, different
  return best or ("", ["a task of its own"])


def _is_free(leaf: str, free: Sequence[str]) -> bool:
  parts = leaf.split(".")
  # A corpus's folders and files are where the data is, not what it is.
  return "arguments" in parts or any(
    leaf == name or leaf.startswith(f"{name}.") for name in free
  )


def _is_same(
  leaf: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]
) -> bool:
  if leaf.endswith("source") and leaf in theirs:
    return mine[leaf] == theirs[leaf] or mine[leaf] not in _EMBEDDED
  return mine[leaf] == theirs.get(leaf)


@functools.cache
def _leaves_of(variant: str) -> dict[str, Any]:
  config = costs.load_config(variant).to_dict()
  return _leaves(json.loads(json.dumps(config, default=str)))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  leaves: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      leaves |= _leaves(value, f"{prefix}{name}.")
    else:
      leaves[prefix + name] = value
  return leaves

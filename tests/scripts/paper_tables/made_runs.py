"""Folders as runs, sweeps and evaluations leave them."""

import json

from configs import glue, imagenet
from perceiver_jax.data.text import glue_tasks

ACCURACY = 0.7864


def _write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content, default=str))


def run(folder, config, metrics):
  """Writes the files of a finished run that the tables read."""
  _write(folder / "config.json", config.to_dict())
  _write(folder / "results.json", {"task": config.task, "metrics": metrics})
  (folder / "report.html").write_text("report")
  return folder


def imagenet_run(folder, variant="fourier", accuracy=ACCURACY, **leaves):
  """Writes a run of configs/imagenet.py with some leaves changed."""
  config = imagenet.get_config(variant)
  config.update_from_flattened_dict(leaves)
  return run(folder, config, {"eval/accuracy": accuracy, "eval/loss": 1.0})


def glue_sweep(folder, tasks=tuple(glue_tasks.GLUE), model="bytes"):
  """Writes a sweep of scripts.sweeps.glue with a run for each task."""
  best = {}
  for task in tasks:
    config = glue.get_config(f"{task},{model}")
    config.batch_size, config.optimizer.learning_rate = 64, 2e-5
    config.init_from = "runs/masked_lm"
    name = f"{task}/{glue_tasks.TASKS[task].metrics[0]}"
    metrics = {name: 0.8}
    if task == "mnli":
      metrics = {"mnli_matched/accuracy": 0.8, "mnli_mismatched/accuracy": 0.7}
    path = run(folder / task / "batch64-rate2e-5", config, metrics)
    best[task] = {"average": 0.8, "metrics": metrics, "folder": str(path)}
  _write(folder / "sweep.json", {"best": best, "average": 0.805})
  return folder


def evaluation(file, **changes):
  """Writes what `experiments.evaluate --weights --out` does."""
  content = {
    "config": "configs/imagenet.py",
    "variant": "",
    "overrides": {"data.source_args.tfds.data_dir": "/data"},
    "weights": "imagenet_fourier_position_encoding.pystate",
    "differences": [],
    "task": "image_classification",
    "metrics": {"eval/accuracy": 0.79},
  }
  _write(file, content | changes)
  return file


def benchmark(file, **row):
  """Writes what `scripts.benchmark --published --json` does."""
  here = {"model": "kinetics_784", "measured on": "NVIDIA H200", "batch": 16}
  printed = {"model": "kinetics_784", "measured on": "paper", "steps/s": 4.4}
  rows = [printed, here | row]
  _write(file, {"device": "NVIDIA H200", "rows": rows})
  return file

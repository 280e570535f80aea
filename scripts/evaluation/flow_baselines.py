"""Evaluates classical methods of optical flow on the benchmarks of a config.

  python -m scripts.evaluation.flow_baselines \
    --config=configs/optical_flow.py:main --config.data.benchmarks.sintel=DIR

Prints a table for each data set of config.data.benchmarks: zero flow, and
OpenCV's Farneback and DIS methods. `experiments.evaluate` evaluates models on
the same data sets.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import launch
from experiments.predictions import outputs
from perceiver_jax import files
from perceiver_jax.errors import UserError
from scripts.benchmark import timing

launch.define_flags(config_required=True)
_OUT = flags.DEFINE_string("out", "", "JSON file for the metrics.")
_COLUMNS = (
  "epe", "epe_visible", "epe_occluded", "epe_s0_10", "epe_s10_40", "epe_s40",
  "epe_s0_1", "epe_s1_2", "epe_s2_3", "epe_s3_10", "over_1px", "over_3px",
  "over_5px", "fl", "epe_by_pair",
)  # fmt: skip


def main(argv: Sequence[str]) -> None:
  """Prints one table per data set."""
  launch.no_arguments(argv)
  from perceiver_jax.evaluation import flow_baselines, flow_benchmarks
  from perceiver_jax.training.logs import metric_writers

  config = launch.config()
  if "benchmarks" not in config.get("data", {}):
    raise UserError(
      f"--config is of task {config.task!r}; give one of optical flow"
    )
  sources = flow_benchmarks.sources(config.data.to_dict())
  if not sources:
    names = ", ".join(config.data.benchmarks)
    raise UserError(
      "no data set is given; set leaves of config.data.benchmarks, which has"
      f" {names}"
    )
  path = files.as_path(_OUT.value).expanduser()
  if _OUT.value:
    outputs.check_writable(path, "another --out")
  figures: dict[str, Any] = {}
  for name, pairs in sources.items():
    rows = []
    for method, estimate in flow_baselines.BASELINES.items():
      metrics = flow_baselines.evaluate(pairs, estimate, f"{name}, {method}")
      figures.setdefault(name, {})[method] = metrics
      shown = {c: metrics[c] for c in _COLUMNS if c in metrics}
      rows.append({"method": method, **shown})
    print(f"\n{name}: {len(pairs)} pairs\n{timing.table(rows)}", flush=True)
    if _OUT.value:
      with outputs.writing(path, "another --out"):
        metric_writers.write_json(path, figures)


if __name__ == "__main__":
  launch.run(main)

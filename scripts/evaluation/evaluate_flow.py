"""Evaluates optical flow on Sintel, KITTI and other data sets.

  python -m scripts.evaluation.evaluate_flow --workdir=RUN --sintel=DIR

The model is a checkpoint of the run in --workdir, or the file --weights (for
example DeepMind's). It is evaluated in tiles at full resolution, on every data
set whose flag is given:

  --sintel=DIR        the training split, clean and final
  --kitti_2012=DIR    the training split
  --kitti_2015=DIR    the training split
  --flying_chairs=DIR the validation split
  --autoflow=DIR      every 200th pair
  --rendered          held-out rendered pairs, as configured by --config or
                      the run
  --motorcycle=SCALE  the Middlebury pair of scikit-image, resized

The tables also have zero flow and OpenCV's Farneback and DIS methods, unless
--nobaselines is given, and with --row=VARIANT the paper's errors for a variant
of configs/optical_flow.py.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import launch
from experiments.predictions import flow_model, outputs
from perceiver_jax.errors import UserError
from scripts.benchmark import timing

flow_model.define_flags()
_FOLDERS = {
  name: flags.DEFINE_string(name, "", "Folder of the data set.")
  for name in (
    "sintel", "kitti_2012", "kitti_2015", "flying_chairs", "autoflow",
  )
}  # fmt: skip
_RENDERED = flags.DEFINE_bool("rendered", False, "Evaluate on rendered pairs.")
_MOTORCYCLE = flags.DEFINE_float(
  "motorcycle", 0.0, "Scale of the Middlebury pair; 0: leave it out.",
  lower_bound=0.0, upper_bound=1.0,
)  # fmt: skip
_BASELINES = flags.DEFINE_bool(
  "baselines", True, "Evaluate OpenCV's methods too."
)
_ROW = flags.DEFINE_string(
  "row", "", "Variant whose published errors are printed."
)
_JSON = flags.DEFINE_string("json", "", "File to write the figures to.")
_IMAGES = flags.DEFINE_string(
  "images", "", "Folder for images of some pairs of each data set."
)
_NUM_DRAWN = 4
_COLUMNS = (
  "epe", "epe_visible", "epe_occluded", "epe_s0_10", "epe_s10_40", "epe_s40",
  "over_1px", "over_3px", "over_5px", "fl", "epe_by_pair",
)  # fmt: skip


def main(argv: Sequence[str]) -> None:
  """Prints one table per data set."""
  launch.no_arguments(argv)
  from perceiver_jax.evaluation import flow_baselines

  sets = _sources()
  published = _published()
  _prepare_output()
  methods = {"model": flow_model.estimator()}
  if _BASELINES.value:
    methods |= flow_baselines.BASELINES
  figures: dict[str, Any] = {}
  for name, pairs in sets.items():
    rows = []
    for method, estimate in methods.items():
      metrics = flow_baselines.evaluate(pairs, estimate, f"{name}, {method}")
      figures.setdefault(name, {})[method] = metrics
      columns = {c: metrics[c] for c in _COLUMNS if c in metrics}
      rows.append({"method": method, **columns})
    if _IMAGES.value:
      _draw(Path(_IMAGES.value) / f"{name}.png", pairs, methods["model"])
    if name in published:
      rows.append({"method": "published", "epe": published[name]})
    print(f"\n{name}: {len(pairs)} pairs\n{timing.table(rows)}", flush=True)
    if _JSON.value:
      path = Path(_JSON.value)
      with outputs.writing(path, "another --json"):
        path.write_text(json.dumps(figures, indent=2), encoding="utf-8")


def _prepare_output() -> None:
  """Checks that the output can be written, before hours of evaluation."""
  if _JSON.value:
    path = Path(_JSON.value)
    with outputs.writing(path, "another --json"):
      path.parent.mkdir(parents=True, exist_ok=True)
      path.open("a").close()
  if _IMAGES.value:
    path = Path(_IMAGES.value)
    with outputs.writing(path, "another --images"):
      path.mkdir(parents=True, exist_ok=True)


def _draw(path: Path, pairs: Any, estimate: flow_model.Estimate) -> None:
  """Draws evenly spaced pairs of a data set."""
  from perceiver_jax.data.images import codec
  from perceiver_jax.viz import flow_images

  samples = []
  count = min(_NUM_DRAWN, len(pairs))
  for i in range(0, count * (len(pairs) // count), len(pairs) // count):
    frames, target = pairs[i]["frames"], pairs[i]["flow"]
    samples.append(flow_images.FlowSample(frames, target, estimate(*frames)))
  # All pairs of a sheet must have the same size; those of KITTI differ.
  size = samples[0].target.shape
  samples = [sample for sample in samples if sample.target.shape == size]
  with outputs.writing(path, "another --images"):
    path.write_bytes(codec.encode_png(flow_images.contact_sheet(samples)))


def _sources() -> dict[str, Any]:
  """Returns the requested data sets by name."""
  from perceiver_jax.data.flow.sources import make_flow_source

  data_sets: dict[str, Any] = {}
  for name, flag in _FOLDERS.items():
    if flag.value:
      data_sets |= _parts_of(name, flag.value)
  if _RENDERED.value:
    settings = _settings().source_args.rendered.to_dict()
    data_sets["rendered"] = make_flow_source(
      "rendered", split="test", **settings
    )
  if _MOTORCYCLE.value:
    data_sets["motorcycle"] = make_flow_source(
      "motorcycle", split="test", scale=_MOTORCYCLE.value
    )
  if not data_sets:
    raise UserError(
      "no data set is given; choose from"
      f" {', '.join(f'--{n}=DIR' for n in _FOLDERS)}, --rendered and"
      " --motorcycle=SCALE"
    )
  return data_sets


def _parts_of(name: str, directory: str) -> dict[str, Any]:
  """Returns the parts of a data set that are evaluated."""
  from perceiver_jax.data.flow import sources as flow_sources

  if name == "sintel":
    return {
      f"sintel_{render}": flow_sources.make_flow_source(
        "sintel", directory=directory, split="train", render=render
      )
      for render in ("clean", "final")
    }
  arguments = {"split": "test"}
  kind, _, year = name.partition("_20")
  if year:
    arguments = {"split": "train", "year": f"20{year}"}
  return {
    name: flow_sources.make_flow_source(kind, directory=directory, **arguments)
  }


def _settings() -> Any:
  """Returns the `data` section of --config, or of the run in --workdir."""
  from perceiver_jax.training import workdir

  if flags.FLAGS.config is not None:
    return launch.config().data
  return workdir.read_config(launch.workdir()).data


def _published() -> dict[str, float]:
  """Returns the paper's errors by data set."""
  if not _ROW.value:
    return {}
  from configs import optical_flow

  row = optical_flow.get_config(_ROW.value).published.to_dict()
  return {name: value for name, value in row.items() if name != "source"}


if __name__ == "__main__":
  launch.run(main)

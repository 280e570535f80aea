"""Data sets on which optical flow is evaluated at full resolution."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from perceiver_jax import checks
from perceiver_jax.data.flow import sources as flow_sources
from perceiver_jax.data.flow.sources import FlowSource
from perceiver_jax.evaluation import flow_baselines, tiling
from perceiver_jax.viz import flow_images

# Leaves of `config.data.benchmarks` that are folders.
_FOLDERS = ("sintel", "kitti_2012", "kitti_2015", "flying_chairs", "autoflow")
# Number of pairs in an image.
_NUM_DRAWN = 4


def sources(data: Mapping[str, Any]) -> dict[str, FlowSource]:
  """Returns the data sets of a config; none by default.

  Args:
    data: `data` section of a config, with `benchmarks`.

  Raises:
    UserError: a folder is missing or a number is out of range.
  """
  settings = data.get("benchmarks", {})
  benchmarks: dict[str, FlowSource] = {}
  spacing = settings.get("tiles", tiling.SPACINGS[0])
  checks.check_leaf_choice("data.benchmarks.tiles", spacing, tiling.SPACINGS)
  for name in _FOLDERS:
    if directory := settings.get(name):
      benchmarks |= _in_folder(name, directory)
  if settings.get("rendered"):
    benchmarks["rendered"] = flow_sources.make_flow_source(
      "rendered", split="test", **data["source_args"]["rendered"]
    )
  if scale := settings.get("motorcycle"):
    benchmarks["motorcycle"] = flow_sources.make_flow_source(
      "motorcycle", split="test", scale=scale
    )
  return benchmarks


def _in_folder(name: str, directory: str) -> dict[str, FlowSource]:
  """Returns the parts of a data set that are evaluated."""
  make = flow_sources.make_flow_source
  if name == "sintel":
    return {
      f"sintel_{render}": make(
        "sintel", directory=directory, split="train", render=render
      )
      for render in ("clean", "final")
    }
  kind, _, year = name.partition("_20")
  if year:
    arguments = {"split": "train", "year": f"20{year}"}
  else:
    arguments = {"split": "test"}
  return {name: make(kind, directory=directory, **arguments)}


class FlowBenchmark:
  """A data set on which a model is evaluated in tiles.

  Args:
    name: name of the data set, for the progress bar.
    source: pairs of the data set.
    predict: maps frames uint8 [b, 2, h, w, 3] of the model's size to flow
      [b, h, w, 2] in pixels.
    tile: the model's size (h, w).
    spacing: see `tiling.tile_starts`.
    num_devices: number of devices over which `predict` splits a batch.
  """

  def __init__(
    self,
    name: str,
    source: FlowSource,
    predict: Callable[[np.ndarray], np.ndarray],
    tile: tuple[int, int],
    spacing: str = "even",
    num_devices: int = 1,
  ):
    self._name, self._source = name, source
    self._estimate = tiling.estimator(predict, tile, spacing, num_devices)

  def __len__(self) -> int:
    return len(self._source)

  def evaluate(self, *, show_progress: bool = False) -> dict[str, float]:
    """Returns the metrics of `flow_baselines.evaluate`."""
    progress = f"evaluate {self._name}" if show_progress else ""
    return flow_baselines.evaluate(self._source, self._estimate, progress)

  def images(self) -> dict[str, np.ndarray]:
    """Draws evenly spaced pairs of one size, uint8 [h, w, 3]."""
    count = min(_NUM_DRAWN, len(self))
    stride = len(self) // count
    samples = []
    for i in range(0, count * stride, stride):
      pair = self._source[i]
      frames, flow = pair["frames"], pair["flow"]
      # All pairs of a sheet must have the same size; those of KITTI differ.
      if not samples or flow.shape == samples[0].target.shape:
        prediction = self._estimate(*frames)
        samples.append(flow_images.FlowSample(frames, flow, prediction))
    return {self._name: flow_images.contact_sheet(samples)}

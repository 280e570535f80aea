"""Plots of all runs of a sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from perceiver_jax.viz import plots

# Less contrast with neither white nor black pages than the ends of the map.
_COLORS = matplotlib.colormaps["viridis"]
_LIGHTEST = 0.85


def parallel_coordinates(
  rows: Sequence[Mapping[str, Any]], names: Sequence[str], metric: str
) -> bytes:
  """Draws a line for each run through its leaves and its metric.

  Args:
    rows: Values by name, of the runs that have the metric.
    names: Names of the leaves: an axis each, whose values are in their order.
    metric: Name of the last axis, which colors the lines.

  Returns:
    An SVG file.
  """
  axes_of = [_Axis(name, [row.get(name) for row in rows]) for name in names]
  last = _Axis(metric, [float(row[metric]) for row in rows], is_metric=True)
  axes_of.append(last)
  with matplotlib.rc_context(plots.SETTINGS):
    figure = Figure((2.2 * len(axes_of) + 0.6, 3.6), layout="constrained")
    axes = figure.subplots()
    order = np.argsort(last.heights, kind="stable")
    for index in order:  # The best of a maximum is drawn last, on top.
      heights = [axis.heights[index] for axis in axes_of]
      color = _COLORS(_LIGHTEST * last.heights[index])
      axes.plot(heights, color=color, linewidth=1.4, alpha=0.9)
    for number, axis in enumerate(axes_of):
      axes.axvline(number, color=plots.INK, linewidth=0.6)
      for label, height in axis.ticks:
        axes.annotate(
          label,
          (number, height),
          (3, 0),
          textcoords="offset points",
          va="center",
          fontsize=8,
        )
    titles = [axis.title for axis in axes_of]
    axes.set_xticks(range(len(axes_of)), titles)
    axes.set_xlim(-0.05, len(axes_of) - 0.55)
    axes.set_ylim(-0.05, 1.05)
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    return plots.svg(figure)


class _Axis:
  """An axis of the plot: where its values are, and its labels.

  Attributes:
    title: Its name.
    heights: Height of each value, from 0 to 1.
    ticks: Labels and their heights.
  """

  def __init__(self, title: str, values: list[Any], is_metric: bool = False):
    self.title = title
    if is_metric:
      low, high = min(values), max(values)
      scale = (high - low) or 1.0
      self.heights = [(value - low) / scale for value in values]
      ends = dict.fromkeys((low, high))
      self.ticks = [(f"{end:.4g}", (end - low) / scale) for end in ends]
      return
    # Values of a sweep are few; equal distances suit grids of any scale.
    numeric = all(isinstance(v, int | float) for v in values)
    distinct = sorted(set(values), key=None if numeric else str)
    places = {
      value: index / max(len(distinct) - 1, 1)
      for index, value in enumerate(distinct)
    }
    self.heights = [places[value] for value in values]
    # Of many proposed values only some have a label.
    shown = distinct[:: -(-len(distinct) // 12)]
    self.ticks = [(_label(value), places[value]) for value in shown]


def _label(value: Any) -> str:
  if value is None:
    return "–"
  return f"{value:.3g}" if isinstance(value, float) else str(value)

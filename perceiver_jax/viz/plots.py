"""Curves, confusion matrices and reliability as SVG for light and dark pages.

Text and frames are drawn in the page's own ink (`currentColor`, chosen by the
reader's colour scheme) on a transparent ground; data in colours that stand
out on both. Nothing here touches pyplot's global state.
"""

import io
import math
import warnings
from collections.abc import (
  Mapping,
  Sequence,
)

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import (
  LinearSegmentedColormap,
  to_rgba,
)
from matplotlib.figure import Figure
from matplotlib.ticker import (
  EngFormatter,
  LogLocator,
  MaxNLocator,
  NullFormatter,
  PercentFormatter,
)

from perceiver_jax.viz.text import (
  printable,
  shorten,
)

MAX_LABELS = 50  # names that can still be read along a side
_INK = "#010203"  # stands for the reader's ink until the SVG is finished
_COLOURS = ("#3f7fd9", "#e0803a", "#3d9a63", "#a566c9", "#c2556b", "#8a8a2f")
_STYLE = (
  "<style>svg{color:#24292f}"
  "@media(prefers-color-scheme:dark){svg{color:#d5dae1}}"
  "text{font-family:system-ui,sans-serif!important}</style>"
)
_SETTINGS = {
  "svg.fonttype": "none",  # text stays text: any script, small files
  "svg.hashsalt": "perceiver_jax",  # the same data give the same bytes
  "font.size": 8.0,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.linewidth": 0.6,
  "text.color": _INK,
  "axes.edgecolor": _INK,
  "axes.labelcolor": _INK,
  "xtick.color": _INK,
  "ytick.color": _INK,
  "text.parse_math": False,
}


def curves(
  records: Sequence[Mapping[str, float]],
  names: Sequence[str],
  title: str,
  log: bool = False,
) -> bytes:
  """Values against steps, a line a name.

  Args:
    records: dicts with 'step' and any of the names, as in `metrics.jsonl`.
    names: keys to draw, such as 'train/loss' and 'eval/loss'.
    title: what all the lines show, such as 'loss'.
    log: a logarithmic scale; linear all the same if a value is not positive.

  Returns:
    An SVG file; values that are not finite are left out.
  """
  with matplotlib.rc_context(_SETTINGS):
    figure = Figure((3.9, 2.5), layout="constrained")
    axes = figure.subplots()
    lines = {name: series(records, name) for name in names}
    lines = {name: line for name, line in lines.items() if len(line[0])}
    for number, (name, (steps, values)) in enumerate(lines.items()):
      _line(axes, steps, values, name, number)
    positive = all((values > 0).all() for _, values in lines.values())
    _dress(axes, title, log and positive and bool(lines))
    if not lines:
      axes.text(0.5, 0.5, "no values", ha="center", transform=axes.transAxes)
    elif list(lines) != [title]:
      axes.legend(frameon=False, fontsize=7.5, labelcolor=_INK)
    return _svg(figure)


def confusion(matrix: np.ndarray, class_names: Sequence[str]) -> bytes:
  """A confusion matrix; colour is the share of each true class.

  With 12 classes or fewer the counts are written too.

  Args:
    matrix: counts [classes, classes], truth by prediction.
    class_names: a name a class, of at most `MAX_LABELS`.

  Returns:
    An SVG file.

  Raises:
    ValueError: if the matrix is not classes by classes, or of too many.
  """
  counts = np.asarray(matrix).astype(np.int64)
  classes = len(class_names)
  if counts.shape != (classes, classes) or not 0 < classes <= MAX_LABELS:
    raise ValueError(f"matrix {counts.shape} for {classes} class names")
  shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  side = 2.2 + 0.14 * classes
  with matplotlib.rc_context(_SETTINGS):
    figure = Figure((side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap=_fading(), vmin=0, vmax=1, interpolation="nearest")
    _label_classes(axes, class_names)
    if classes <= 12:
      _write_counts(axes, counts, shares)
    return _svg(figure)


def reliability(table: np.ndarray) -> bytes:
  """Accuracy against confidence, above how the confidences are spread.

  Args:
    table: sums [bins, 3] of examples, their confidence and how many of them
      are right, by equal steps of confidence from 0 to 1.

  Returns:
    An SVG file; bars that end at the dashed line are perfectly calibrated.
  """
  examples, _, right = np.asarray(table, np.float64).T
  edges = np.arange(len(examples)) / len(examples)
  accuracy = right / np.maximum(examples, 1)
  spread = examples / max(examples.sum(), 1)
  with matplotlib.rc_context(_SETTINGS):
    figure = Figure((3.9, 3.9), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    for axes, heights in ((above, accuracy), (below, spread)):
      width = 0.95 / len(examples)
      axes.bar(edges, heights, width, align="edge", color=_COLOURS[0])
    above.plot((0, 1), (0, 1), "--", color=_INK, linewidth=0.8)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    below.set(xlabel="confidence", ylabel="examples")
    below.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return _svg(figure)


def series(
  records: Sequence[Mapping[str, float]], name: str
) -> tuple[np.ndarray, np.ndarray]:
  """The (steps, values) of one name: finite values only, by rising step."""
  pairs = [
    (record["step"], record[name])
    for record in records
    if name in record and math.isfinite(record[name])
  ]
  pairs.sort(key=lambda pair: pair[0])
  steps, values = zip(*pairs, strict=True) if pairs else ((), ())
  return np.asarray(steps, np.int64), np.asarray(values, np.float64)


def by_metric(
  records: Sequence[Mapping[str, float]],
) -> dict[str, list[str]]:
  """Names that belong in one plot: {'loss': ['train/loss', 'eval/loss'], …}.

  Args:
    records: as in `metrics.jsonl`.

  Returns:
    Names with finite values by what follows their last '/', the loss first.
  """
  groups: dict[str, list[str]] = {"loss": []}
  for name in dict.fromkeys(name for record in records for name in record):
    if name != "step" and len(series(records, name)[0]):
      groups.setdefault(name.rpartition("/")[2], []).append(name)
  return {metric: names for metric, names in groups.items() if names}


def frequent_mistakes(
  matrix: np.ndarray, most: int
) -> list[tuple[int, int, int]]:
  """The (truth, prediction, times) off the diagonal, most frequent first."""
  errors = np.asarray(matrix).astype(np.int64)  # an unsigned -1 is large
  np.fill_diagonal(errors, 0)
  order = np.argsort(-errors, axis=None, kind="stable")[:most]
  places = zip(*np.unravel_index(order, errors.shape), strict=True)
  found = ((int(t), int(p), int(errors[t, p])) for t, p in places)
  return [mistake for mistake in found if mistake[2]]


def _line(
  axes: Axes, steps: np.ndarray, values: np.ndarray, name: str, number: int
) -> None:
  # Few points are marked, so that a single one shows and colour is not all.
  marker = "os^Dv*"[number % 6] if len(steps) <= 40 else None
  axes.plot(
    steps,
    values,
    color=_COLOURS[number % len(_COLOURS)],
    linewidth=1.3,
    marker=marker,
    markersize=2.5,
    label=printable(name).lstrip(
      "_"
    ),  # matplotlib hides labels that start with one
  )


def _dress(axes: Axes, title: str, log: bool) -> None:
  axes.set_title(printable(title), loc="left", fontsize=9, fontweight="bold")
  axes.set_xlabel("step")
  axes.grid(alpha=0.15, color=_INK, linewidth=0.5)
  axes.tick_params(length=2.5, width=0.6)
  low, high = axes.get_xlim()
  if high - low < 2:
    # One step only: matplotlib would make up a scale of fractions around it.
    middle = (low + high) / 2
    axes.set_xlim(middle - 1, middle + 1)
  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
  axes.xaxis.set_major_formatter(EngFormatter(sep=""))
  if log:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # One decade has too few powers of ten to read a value off.
    between = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=between))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _fading() -> LinearSegmentedColormap:
  """From nothing to the first colour: zero is the page's own ground."""
  ends = [to_rgba(_COLOURS[0], 0.03), to_rgba(_COLOURS[0], 1)]
  return LinearSegmentedColormap.from_list("fading", ends)


def _label_classes(axes: Axes, names: Sequence[str]) -> None:
  shown = [shorten(name, 18) for name in names]
  places = range(len(shown))
  upright = max(map(len, shown)) > 3 or len(shown) > 20
  axes.set_xticks(places, shown, rotation=90 if upright else 0, fontsize=7)
  axes.set_yticks(places, shown, fontsize=7)
  axes.tick_params(length=0)
  axes.spines[:].set_visible(False)
  axes.set_xlabel("predicted")
  axes.set_ylabel("truth")


def _write_counts(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
  for (row, column), count in np.ndenumerate(counts):
    if count:
      colour = "white" if shares[row, column] > 0.5 else _INK
      text = axes.text(column, row, str(count), color=colour, fontsize=7)
      text.set(ha="center", va="center")


def _svg(figure: Figure) -> bytes:
  file = io.BytesIO()
  quiet = dict.fromkeys(("Date", "Creator", "Format", "Type"))
  with warnings.catch_warnings():
    # The browser draws the text, in a font that has what matplotlib's lacks.
    warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
    figure.savefig(file, format="svg", transparent=True, metadata=quiet)
  text = file.getvalue().decode()
  for kind in ("fill", "stroke"):
    text = text.replace(f"{kind}: {_INK}", f"{kind}: currentColor")
  head, tag, rest = text.partition("<defs>")
  return (head + _STYLE + tag + rest).encode()

"""Plots as SVG files for light and dark pages.

Text and axes have the text color of the reader's color scheme (`currentColor`)
on a transparent background; data have colors with contrast on both. The global
state of pyplot is not changed.
"""

import io
import math
import warnings
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import (
  EngFormatter,
  LogLocator,
  MaxNLocator,
  NullFormatter,
  PercentFormatter,
)

from perceiver_jax.viz.text import printable, shorten

MAX_LABELS = 50  # More class names along an axis would be illegible.
_WAVE_SECONDS = 0.02  # Of a waveform, so that periods can be seen.
_SPECTROGRAM_SAMPLES = 256  # In a window.
INK = "#010203"  # Replaced by currentColor in the finished SVG.
COLORS = ("#3f7fd9", "#e0803a", "#3d9a63", "#a566c9", "#c2556b", "#8a8a2f")
_STYLE = (
  "<style>svg{color:#24292f}"
  "@media(prefers-color-scheme:dark){svg{color:#d5dae1}}"
  "text{font-family:system-ui,sans-serif!important}</style>"
)
SETTINGS = {
  "svg.fonttype": "none",  # Keeps text as text: small files, any script.
  "svg.hashsalt": "perceiver_jax",  # Makes files reproducible.
  "font.size": 8.0,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.linewidth": 0.6,
  "text.color": INK,
  "axes.edgecolor": INK,
  "axes.labelcolor": INK,
  "xtick.color": INK,
  "ytick.color": INK,
  "text.parse_math": False,
}


def curves(
  records: Sequence[Mapping[str, float]],
  names: Sequence[str],
  title: str,
  log: bool = False,
) -> bytes:
  """Plots values against steps, with one line per name.

  Args:
    records: dicts with 'step' and any of the names, as in `metrics.jsonl`.
    names: keys to plot, such as 'train/loss' and 'eval/loss'.
    title: title of the plot, such as 'loss'.
    log: whether to use a logarithmic scale; ignored if a value is not
      positive.

  Returns:
    An SVG file, without values that are not finite.
  """
  with matplotlib.rc_context(SETTINGS):
    figure = Figure((3.9, 2.5), layout="constrained")
    axes = figure.subplots()
    lines = {name: series(records, name) for name in names}
    lines = {name: line for name, line in lines.items() if len(line[0])}
    for number, (name, (steps, values)) in enumerate(lines.items()):
      _line(axes, steps, values, name, number)
    positive = all((values > 0).all() for _, values in lines.values())
    _style_axes(axes, title, log and positive and bool(lines))
    if not lines:
      axes.text(0.5, 0.5, "no values", ha="center", transform=axes.transAxes)
    elif list(lines) != [title]:
      axes.legend(frameon=False, fontsize=7.5, labelcolor=INK)
    return svg(figure)


def confusion_matrix(matrix: np.ndarray, class_names: Sequence[str]) -> bytes:
  """Plots a confusion matrix; color is the share of the row.

  With at most 12 classes, the cells have their counts.

  Args:
    matrix: counts [classes, classes]; rows are labels, columns predictions.
    class_names: one name per class, at most `MAX_LABELS`.

  Returns:
    An SVG file.

  Raises:
    ValueError: the matrix is not [classes, classes], or there are too many
      classes.
  """
  counts = np.asarray(matrix).astype(np.int64)
  classes = len(class_names)
  if counts.shape != (classes, classes) or not 0 < classes <= MAX_LABELS:
    raise ValueError(f"matrix {counts.shape} for {classes} class names")
  shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  side = 2.2 + 0.14 * classes
  with matplotlib.rc_context(SETTINGS):
    figure = Figure((side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(
      shares, cmap=_color_map(), vmin=0, vmax=1, interpolation="nearest"
    )
    _label_classes(axes, class_names)
    if classes <= 12:
      _write_counts(axes, counts, shares)
    return svg(figure)


def reliability_diagram(table: np.ndarray) -> bytes:
  """Plots accuracy against confidence, and a histogram of confidence.

  Args:
    table: [bins, 3] with the number of examples, the sum of their confidence
      and the number of correct ones, in equal bins of confidence.

  Returns:
    An SVG file; bars end at the dashed line if calibration is perfect.
  """
  examples, _, correct = np.asarray(table, np.float64).T
  edges = np.arange(len(examples)) / len(examples)
  accuracy = correct / np.maximum(examples, 1)
  histogram = examples / max(examples.sum(), 1)
  with matplotlib.rc_context(SETTINGS):
    figure = Figure((3.9, 3.9), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    for axes, heights in ((above, accuracy), (below, histogram)):
      width = 0.95 / len(examples)
      axes.bar(edges, heights, width, align="edge", color=COLORS[0])
    above.plot((0, 1), (0, 1), "--", color=INK, linewidth=0.8)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    below.set(xlabel="confidence", ylabel="examples")
    below.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return svg(figure)


def audio_comparison(
  sounds: Mapping[str, np.ndarray], sample_rate: int
) -> bytes:
  """Plots a short part of waveforms over each other, and their spectrograms.

  Args:
    sounds: samples [S] from -1 to 1 by name, all of one length.
    sample_rate: samples per second.

  Returns:
    An SVG file; the part has `_WAVE_SECONDS`, where the first sound is loudest.
  """
  first = next(iter(sounds.values()))
  size = min(round(_WAVE_SECONDS * sample_rate), len(first))
  start = np.convolve(np.square(first), np.ones(size), "valid").argmax()
  part = slice(start, start + size)
  with matplotlib.rc_context(SETTINGS):
    figure = Figure((3.9, 2.9), layout="constrained")
    grid = figure.add_gridspec(2, len(sounds))
    wave = figure.add_subplot(grid[0, :])
    times = np.arange(len(first))[part] / sample_rate
    for number, (name, samples) in enumerate(sounds.items()):
      color, title = COLORS[number % len(COLORS)], printable(name)
      wave.plot(times, samples[part], color=color, linewidth=1.0, label=title)
      axes = figure.add_subplot(grid[1, number])
      _spectrogram(axes, samples, sample_rate)
      axes.set_title(title, loc="left", fontsize=8)
      if not number:
        axes.set_ylabel("Hz")
    wave.set(xlim=(times[0], times[-1]), xlabel="seconds")
    wave.xaxis.set_major_locator(MaxNLocator(5))
    figure.legend(
      loc="outside upper left",
      frameon=False,
      fontsize=7.5,
      labelcolor=INK,
      ncols=len(sounds),
    )
    return svg(figure)


def series(
  records: Sequence[Mapping[str, float]], name: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the steps and finite values of a name, sorted by step."""
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
  """Groups names by metric, as {'loss': ['train/loss', 'eval/loss'], …}.

  Args:
    records: as in `metrics.jsonl`.

  Returns:
    Names with finite values, by the part after their last '/', loss first.
  """
  groups: dict[str, list[str]] = {"loss": []}
  for name in dict.fromkeys(name for record in records for name in record):
    if name != "step" and len(series(records, name)[0]):
      groups.setdefault(name.rpartition("/")[2], []).append(name)
  return {metric: names for metric, names in groups.items() if names}


def frequent_mistakes(
  matrix: np.ndarray, count: int
) -> list[tuple[int, int, int]]:
  """Returns the most frequent (label, prediction, count) off the diagonal."""
  # Unsigned counts cannot be negated.
  errors = np.asarray(matrix).astype(np.int64)
  np.fill_diagonal(errors, 0)
  order = np.argsort(-errors, axis=None, kind="stable")[:count]
  cells = zip(*np.unravel_index(order, errors.shape), strict=True)
  return [
    (int(label), int(prediction), int(errors[label, prediction]))
    for label, prediction in cells
    if errors[label, prediction]
  ]


def _line(
  axes: Axes, steps: np.ndarray, values: np.ndarray, name: str, number: int
) -> None:
  # With few points, markers make a single point visible, and lines differ in
  # more than color.
  marker = "os^Dv*"[number % 6] if len(steps) <= 40 else None
  axes.plot(
    steps,
    values,
    color=COLORS[number % len(COLORS)],
    linewidth=1.3,
    marker=marker,
    markersize=2.5,
    # Matplotlib hides labels that start with an underscore.
    label=printable(name).lstrip("_"),
  )


def _style_axes(axes: Axes, title: str, log: bool) -> None:
  axes.set_title(printable(title), loc="left", fontsize=9, fontweight="bold")
  axes.set_xlabel("step")
  axes.grid(alpha=0.15, color=INK, linewidth=0.5)
  axes.tick_params(length=2.5, width=0.6)
  low, high = axes.get_xlim()
  if high - low < 2:
    # Around a single step, matplotlib would use a scale of fractions.
    center = (low + high) / 2
    axes.set_xlim(center - 1, center + 1)
  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
  axes.xaxis.set_major_formatter(EngFormatter(sep=""))
  if log:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # One decade has too few powers of ten for reading values.
    ticks = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=ticks))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _spectrogram(axes: Axes, samples: np.ndarray, sample_rate: int) -> None:
  """Draws levels from -50 to 0 dB of the loudest tone."""
  size = min(_SPECTROGRAM_SAMPLES, len(samples))
  windows = np.lib.stride_tricks.sliding_window_view(samples, size)
  window = np.hanning(size + 1)[:-1]
  spectrum = np.fft.rfft(windows[:: max(1, size // 4)] * window, axis=-1)
  level = np.abs(spectrum.T) * 2 / window.sum()
  axes.imshow(
    20 * np.log10(np.maximum(level, 1e-4)),
    cmap=_color_map(),
    vmin=-50,
    vmax=0,
    aspect="auto",
    origin="lower",
    extent=(0, len(samples) / sample_rate, 0, sample_rate / 2),
  )
  axes.yaxis.set_major_formatter(EngFormatter(sep=""))


def _color_map() -> LinearSegmentedColormap:
  """Returns a color map from nearly transparent to the first color."""
  ends = [to_rgba(COLORS[0], 0.03), to_rgba(COLORS[0], 1)]
  return LinearSegmentedColormap.from_list("transparent_to_color", ends)


def _label_classes(axes: Axes, names: Sequence[str]) -> None:
  labels = [shorten(name, 18) for name in names]
  ticks = range(len(labels))
  vertical = max(map(len, labels)) > 3 or len(labels) > 20
  axes.set_xticks(ticks, labels, rotation=90 if vertical else 0, fontsize=7)
  axes.set_yticks(ticks, labels, fontsize=7)
  axes.tick_params(length=0)
  axes.spines[:].set_visible(False)
  axes.set_xlabel("prediction")
  axes.set_ylabel("label")


def _write_counts(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
  for (row, column), count in np.ndenumerate(counts):
    if count:
      color = "white" if shares[row, column] > 0.5 else INK
      text = axes.text(column, row, str(count), color=color, fontsize=7)
      text.set(ha="center", va="center")


def svg(figure: Figure) -> bytes:
  """Returns a figure drawn with `SETTINGS` and `INK` as an SVG file."""
  file = io.BytesIO()
  no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
  with warnings.catch_warnings():
    # The browser draws the text, so matplotlib's font does not matter.
    warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
    figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
  text = file.getvalue().decode()
  for kind in ("fill", "stroke"):
    text = text.replace(f"{kind}: {INK}", f"{kind}: currentColor")
  head, tag, rest = text.partition("<defs>")
  return (head + _STYLE + tag + rest).encode()

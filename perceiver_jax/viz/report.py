"""The run report: one HTML file that shows what a run reached, and how.

The file stands alone: pictures are inside it, it needs no network and no
JavaScript, and it follows the reader's light or dark colour scheme.
"""

import dataclasses
import os
from collections.abc import (
  Mapping,
  Sequence,
)
from pathlib import Path
from typing import Any

import numpy as np

from perceiver_jax.viz import (
  classification,
  clip_samples,
  html,
  plots,
  text_samples,
)
from perceiver_jax.viz.attention_maps import png_bytes

_LOG_SPREAD = 20  # largest / smallest loss from which a log scale reads better


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """What a report shows; parts that are empty are left out.

  Attributes:
    title: the run's name.
    summary: what the run reached, the headline first; numbers or text.
    published: the paper's row under the same keys, with an optional 'source'
      (text, where it stands); None where there is none.
    records: the lines of `metrics.jsonl`.
    confusion: counts [classes, classes], truth by prediction.
    class_names: a name a class.
    class_accuracy: share of right predictions by label, without classes that
      have no example; shown with `confusion`.
    calibration: sums [bins, 3] of examples, their confidence and how many of
      them are right, by equal steps of confidence from 0 to 1.
    calibration_error: the expected calibration error; shown with
      `calibration`.
    predictions: (image uint8 [h, w, C], attention overlay uint8 [h, w, 3],
      truth, prediction, probability of the prediction).
    fillings: of each text, its runs as (truth, guess, whether it was hidden).
    texts: (text, truth, prediction, probability of the prediction; None if the
      two are scores).
    flows: pairs with their true and predicted flow, uint8 [h, w, 3].
    clips: clips to see and hear, with what the model says of them.
    class_scores: (class, average precision, area under the ROC curve, positive
      examples) of each class, where an example may have several.
    config: the run's settings, nested.
    versions: package, device and commit names to their versions.
    parameters: (name, shape, count) of each parameter array.
    notes: sentences a reader needs to judge the numbers.
  """

  title: str
  summary: Mapping[str, Any]
  published: Mapping[str, Any] | None = None
  records: Sequence[Mapping[str, float]] = ()
  confusion: np.ndarray | None = None
  class_names: Sequence[str] = ()
  class_accuracy: Mapping[int, float] = dataclasses.field(default_factory=dict)
  calibration: np.ndarray | None = None
  calibration_error: float | None = None
  predictions: Sequence[tuple[np.ndarray, np.ndarray, str, str, float]] = ()
  fillings: Sequence[Sequence[tuple[str, str, bool]]] = ()
  texts: Sequence[tuple[str, str, str, float | None]] = ()
  flows: np.ndarray | None = None
  clips: Sequence[clip_samples.Clip] = ()
  class_scores: Sequence[tuple[str, float, float, int]] = ()
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  versions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  parameters: Sequence[tuple[str, tuple[int, ...], int]] = ()
  notes: Sequence[str] = ()


def write_report(path: str | os.PathLike, report: Report) -> None:
  """Writes the report, so that a reader sees the old file or the new.

  Args:
    path: the HTML file to make or replace.
    report: what to show.
  """
  path = Path(path)
  partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  partial.write_text(_page(report), encoding="utf-8")
  os.replace(partial, path)


def _page(report: Report) -> str:
  parts = (
    _head(report),
    _notes(report.notes),
    _published(report.summary, report.published),
    _curves(report.records),
    _predictions(report.predictions),
    text_samples.fillings(report.fillings),
    text_samples.classified(report.texts),
    _flows(report.flows),
    clip_samples.clips(report.clips),
    clip_samples.class_scores(report.class_scores),
    classification.confusion(report.confusion, report.class_names),
    classification.classes(
      report.class_accuracy, report.confusion, report.class_names
    ),
    classification.calibration(report.calibration, report.calibration_error),
    _parameters(report.parameters),
    _config(report.config),
    _versions(report.versions),
  )
  return html.page(report.title, "".join(parts))


def _head(report: Report) -> str:
  title = f"<header>\n<h1>{html.text(report.title)}</h1>\n"
  if not report.summary:
    return title + "</header>\n"
  (name, value), *facts = report.summary.items()
  headline = f'<p class="headline">{html.value(value)}</p>\n'
  label = f'<p class="quiet">{html.text(_spaced(name))}</p>\n'
  items = "".join(
    f"<div><dt>{html.text(_spaced(key))}</dt><dd>{html.value(fact)}</dd></div>\n"
    for key, fact in facts
  )
  rest = f'<dl class="facts">\n{items}</dl>\n' if items else ""
  return f"{title}{headline}{label}{rest}</header>\n"


def _notes(notes: Sequence[str]) -> str:
  if not notes:
    return ""
  items = "".join(f"<li>{html.text(note)}</li>\n" for note in notes)
  return f'<ul class="notes">\n{items}</ul>\n'


def _published(
  summary: Mapping[str, Any], published: Mapping[str, Any] | None
) -> str:
  published = dict(published or {})
  source = str(published.pop("source", ""))
  if not published:
    return ""
  rows = [
    (
      _spaced(name),
      summary.get(name, "–"),
      value,
      _difference(summary.get(name), value),
    )
    for name, value in published.items()
  ]
  head = ("", "this run", "published", "difference")
  table = html.table(head, rows, caption=source, numbers=(1, 2, 3))
  return f"<h2>Beside the published row</h2>\n{table}"


def _curves(records: Sequence[Mapping[str, float]]) -> str:
  """Learning curves in the open; speeds and schedules folded away."""
  main, other = [], []
  for title, names in plots.by_metric(records).items():
    shown = title == "loss" or any(n.startswith("eval") for n in names)
    (main if shown else other).append(_chart(records, names, title))
  text = f"<h2>Curves</h2>\n{_charts(main)}" if main else ""
  if other:
    text += html.details("Other curves", str(len(other)), _charts(other))
  return text


def _chart(
  records: Sequence[Mapping[str, float]], names: Sequence[str], title: str
) -> str:
  values = {name: plots.series(records, name)[1] for name in names}
  every = np.concatenate(list(values.values()))
  low, high = every.min(), every.max()
  log = "loss" in title and low > 0 and high / low > _LOG_SPREAD
  ends = ", ".join(f"{name} {line[-1]:.4g}" for name, line in values.items())
  text = f"{title} against step; last values: {ends}"
  return html.image(plots.curves(records, names, title, log), "svg+xml", text)


def _charts(images: Sequence[str]) -> str:
  return f'<div class="columns charts">\n{"".join(images)}</div>\n'


def _predictions(
  predictions: Sequence[tuple[np.ndarray, np.ndarray, str, str, float]],
) -> str:
  """Mistakes first, the surest of them leading."""
  if not predictions:
    return ""
  ordered = sorted(predictions, key=lambda p: (p[2] == p[3], -p[4]))
  cards = "".join(_card(*prediction) for prediction in ordered)
  return (
    '<h2>Sample predictions</h2>\n<p class="quiet">The input, and where the '
    "model looked (yellow: most). Mistakes come first, the most "
    f'confident leading.</p>\n<div class="cards">\n{cards}</div>\n'
  )


def _card(
  image: np.ndarray,
  overlay: np.ndarray,
  truth: str,
  predicted: str,
  probability: float,
) -> str:
  right = truth == predicted
  pixels = "pixels" if max(image.shape[:2]) < 64 else ""
  seen = html.image(png_bytes(image), "png", f"input: {truth}", pixels)
  heat = html.image(png_bytes(overlay), "png", "attention over the input")
  verdict = f"<strong>{html.text(predicted)}</strong> {probability:.0%}"
  if not right:
    verdict = f"✗ {verdict}<br>truth: {html.text(truth)}"
  kind = "right" if right else "wrong"
  return (
    f'<figure class="{kind}"><div class="pair">{seen}{heat}</div>\n'
    f"<figcaption>{verdict}</figcaption></figure>\n"
  )


def _flows(sheet: np.ndarray | None) -> str:
  if sheet is None:
    return ""
  text = "frames, true and predicted flow, and error"
  picture = html.image(png_bytes(sheet), "png", text)
  return (
    '<h2>Optical flow</h2>\n<p class="quiet">Colour says which way a pixel'
    " moves, and its strength how far; errors are black where there is none."
    f" Black flow is not known.</p>\n{picture}"
  )


def _parameters(parameters: Sequence[tuple[str, tuple, int]]) -> str:
  if not parameters:
    return ""
  total = sum(count for _, _, count in parameters)
  rows = [
    (name, " × ".join(map(str, shape)) or "–", count)
    for name, shape, count in parameters
  ]
  table = html.table(
    ("array", "shape", "count"),
    rows,
    numbers=(2,),
    foot=("total", "", total),
    code=True,
  )
  text = f"{total:,} in {len(rows)} arrays"
  return html.details("Parameters", text, table)


def _config(config: Mapping[str, Any]) -> str:
  rows = [(name, repr(value)) for name, value in _leaves(config)]
  if not rows:
    return ""
  table = html.table(("--config.…", "value"), rows, code=True)
  return html.details("Configuration", f"{len(rows)} leaves", table)


def _leaves(config: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
  """Dotted names, as the command line takes them, with their values."""
  leaves = []
  for name, value in config.items():
    if hasattr(value, "items") and len(value):
      leaves += _leaves(value, f"{path}{name}.")
    else:
      leaves.append((f"{path}{name}", value))
  return leaves


def _versions(versions: Mapping[str, Any]) -> str:
  if not versions:
    return ""
  table = html.table(
    ("name", "version"),
    [(name, str(v)) for name, v in versions.items()],
    code=True,
  )
  return f"<h2>Versions</h2>\n{table}"


def _spaced(name: str) -> str:
  return str(name).replace("_", " ")


def _difference(ours: Any, published: Any) -> str:
  numbers = (int, float, np.integer, np.floating)
  if not isinstance(ours, numbers) or not isinstance(published, numbers):
    return "–"
  difference = ours - published
  whole = isinstance(difference, int | np.integer)
  text = f"{difference:+,}" if whole else f"{difference:+.3g}"
  return text.replace("-", "−")

"""Sections of the run report, one function per kind.

`Task.report_sections` chooses those of a task.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from perceiver_jax.viz import html, plots
from perceiver_jax.viz.text import shorten

# With more classes than this, tables have only the worst and the best.
_MAX_CLASS_ROWS = 40
_WORST_AND_BEST = 10
# Mistakes listed beside a confusion matrix, and instead of one.
_MISTAKES, _MISTAKES_ONLY = 10, 20
_MAX_NAME_LENGTH = 32  # ImageNet's class names list every synonym.
SAMPLES = "Sample predictions"
MISTAKES = "Most confident mistakes of the evaluation set"
_SMALL_IMAGE = 64  # Pixels; smaller images are enlarged without smoothing.


@dataclasses.dataclass(frozen=True)
class Section:
  """A section of the report.

  Attributes:
    title: heading of the section.
    body: HTML, from `html.render`; a plain string is escaped.
    description: text under the heading; "" for none.
    folded: whether the body is hidden until a click.
  """

  title: str
  body: Markup | str
  description: str = ""
  folded: bool = False


class ImageSample(NamedTuple):
  """A classified image.

  Attributes:
    image: uint8 [h, w, 1 or 3].
    attention: the attention over the image, uint8 [h, w, 3].
    label: the correct class.
    prediction: the predicted class.
    probability: probability of the predicted class.
  """

  image: np.ndarray
  attention: np.ndarray
  label: str
  prediction: str
  probability: float


class TextSample(NamedTuple):
  """A classified or scored text.

  Attributes:
    text: the text.
    label: the correct class or score.
    prediction: the predicted class or score.
    probability: probability of the predicted class; None for a score.
  """

  text: str
  label: str
  prediction: str
  probability: float | None


class TextSpan(NamedTuple):
  """Consecutive tokens that are either all masked or all visible.

  Attributes:
    text: the original text.
    prediction: the predicted text; only shown if `masked`.
    masked: whether the tokens were masked.
  """

  text: str
  prediction: str
  masked: bool


class Media(NamedTuple):
  """A file that a browser can play.

  Attributes:
    name: text above the player; "" for none.
    media_type: "video/mp4" or "audio/wav".
    file: the bytes of the file.
  """

  name: str
  media_type: str
  file: bytes


class ClipSample(NamedTuple):
  """A clip with captions.

  Attributes:
    media: the files to play.
    captions: texts by name, such as the label and the prediction.
    plots: SVG files below the players, each with its alternative text.
  """

  media: Sequence[Media]
  captions: Mapping[str, str]
  plots: Sequence[tuple[bytes, str]] = ()


def notes(lines: Sequence[str]) -> Section:
  """Lists remarks that readers need to judge the metrics."""
  return Section("Notes", html.render("notes", lines=lines))


def image_samples(
  samples: Sequence[ImageSample], title: str = SAMPLES
) -> Section:
  """Shows images with attention and prediction, confident mistakes first."""
  ordered = sorted(
    samples, key=lambda s: (s.label == s.prediction, -s.probability)
  )
  return Section(
    title,
    html.render("image_samples", samples=ordered, small=_SMALL_IMAGE),
    "The input and, beside it, the attention (yellow is highest). Mistakes"
    " come first, the most confident leading.",
  )


def text_samples(samples: Sequence[TextSample]) -> Section:
  """Lists texts with their predictions.

  Mistakes come first, the most confident leading; for scores, the largest
  errors. Scores among classes come last, in the given order.
  """
  scored = all(sample.probability is None for sample in samples)
  if scored:
    error = lambda s: abs(float(s.label) - float(s.prediction))
    rows = [s[:3] for s in sorted(samples, key=error, reverse=True)]
    head = ("text", "label", "prediction")
    order = "The largest errors come first."
  else:
    classified = [s for s in samples if s.probability is not None]
    classified.sort(key=lambda s: (s.label == s.prediction, -s.probability))
    rows = [
      (
        s.text,
        s.label,
        s.prediction if s.prediction == s.label else f"✗ {s.prediction}",
        f"{s.probability:.0%}",
      )
      for s in classified
    ] + [(*s[:3], "–") for s in samples if s.probability is None]
    head = ("text", "label", "prediction", "probability")
    order = "Mistakes come first, the most confident leading."
  table = html.Table(head, rows, numbers=range(3, len(head)))
  return Section(
    "Sample texts",
    html.tables(table),
    f"Held-out texts and the model's predictions. {order}",
  )


def masked_tokens(texts: Sequence[Sequence[TextSpan]]) -> Section:
  """Shows texts with predictions in place of the masked tokens."""
  return Section(
    "Masked tokens",
    html.render("masked_tokens", texts=texts),
    "The model's predictions in place of the masked tokens, each token"
    " predicted independently. After a wrong one, the original follows in"
    " brackets.",
  )


def clip_samples(samples: Sequence[ClipSample]) -> Section:
  """Shows clips with players and captions."""
  if any(sample.media for sample in samples):
    description = "Held-out clips, as preprocessed for the model."
  else:
    description = (
      "The clips could not be encoded for a browser. If PyAV or soundfile is"
      " missing: pip install 'perceiver_jax[media]'; otherwise the run's log"
      " says why."
    )
  body = html.render("clip_samples", samples=samples)
  return Section("Sample clips", body, description)


def flow_samples(sheet: np.ndarray) -> Section:
  """Shows pairs of frames with target and predicted flow.

  Args:
    sheet: uint8 [h, w, 3], from `flow_images.contact_sheet`.
  """
  return Section(
    "Optical flow",
    html.render("flow_samples", sheet=sheet),
    "Hue is the direction in which a pixel moves, saturation how far. Errors"
    " are black where they are zero; unknown flow is black.",
  )


def confusion_matrix(matrix: np.ndarray, class_names: Sequence[str]) -> Section:
  """Shows the confusion matrix beside the most frequent mistakes.

  Args:
    matrix: counts [classes, classes]; rows are labels, columns predictions.
    class_names: one name per class; with more than `plots.MAX_LABELS` classes
      the matrix would be illegible, and only the mistakes are listed.
  """
  matrix = np.asarray(matrix).astype(np.int64)
  classes = len(class_names)
  correct = f"{matrix.trace():,} of {matrix.sum():,} correct."
  has_plot = classes <= plots.MAX_LABELS
  mistakes = _mistakes(
    matrix, class_names, _MISTAKES if has_plot else _MISTAKES_ONLY
  )
  if not has_plot:
    description = f"{correct} {classes:,} classes are too many to draw."
    return Section("Confusion matrix", html.tables(*mistakes), description)
  few = classes <= 12
  body = html.render(
    "confusion_matrix",
    plot=plots.confusion_matrix(matrix, class_names),
    alt=f"confusion matrix: {correct}",
    tables=mistakes,
    beside=few,
    # A matrix of many classes scrolls; fitted to a phone it would be illegible.
    max_width=22 if few else min(46, 20 + 0.65 * classes),
  )
  return Section(
    "Confusion matrix",
    body,
    "Rows are labels, columns predictions; color is the share of the row."
    f" {correct}",
  )


def class_accuracy(
  accuracy: Mapping[int, float], matrix: np.ndarray, class_names: Sequence[str]
) -> Section:
  """Lists the accuracy per class, the worst first.

  Args:
    accuracy: accuracy by class index, without classes that have no example.
    matrix: as in `confusion_matrix`.
    class_names: one name per class.
  """
  matrix = np.asarray(matrix).astype(np.int64)
  mistakes = matrix.copy()
  np.fill_diagonal(mistakes, 0)
  rows = []
  for label in sorted(accuracy, key=accuracy.get):
    has_mistakes = mistakes[label].any()
    mistake = class_names[mistakes[label].argmax()] if has_mistakes else "–"
    examples = int(matrix[label].sum())
    share = f"{accuracy[label]:.1%}"
    rows.append((_short(class_names[label]), _short(mistake), share, examples))
  head = ("class", "most often confused with", "accuracy", "examples")
  return Section("Classes", _class_tables(head, rows, numbers=(2, 3)))


def class_metrics(
  class_names: Sequence[str], metrics: Mapping[str, np.ndarray]
) -> Section:
  """Lists the metrics of each class with examples, the worst first.

  Args:
    class_names: name of each class.
    metrics: "class_AP" (average precision), "class_AUC" (area under the ROC
      curve) and "class_examples" (number of positive examples) of each class;
      the first two are NaN for a class without examples.
  """
  precision = np.asarray(metrics["class_AP"])
  rows = [
    (
      _short(class_names[i]),
      f"{precision[i]:.3f}",
      f"{metrics['class_AUC'][i]:.3f}",
      int(metrics["class_examples"][i]),
    )
    for i in np.argsort(precision, kind="stable")
    if not np.isnan(precision[i])
  ]
  head = ("class", "average precision", "ROC AUC", "examples")
  return Section("Classes", _class_tables(head, rows, numbers=(1, 2, 3)))


def calibration(table: np.ndarray, error: float) -> Section:
  """Shows the reliability diagram.

  Args:
    table: see `plots.reliability_diagram`.
    error: the expected calibration error.
  """
  alt = f"reliability diagram, expected calibration error {error:.2%}"
  plot = plots.reliability_diagram(table)
  return Section(
    "Calibration",
    html.render("plots", plots=[(plot, alt)]),
    f"Expected calibration error: {error:.2%}, the mean difference between"
    " confidence (the probability of the predicted class) and accuracy over"
    f" {len(table)} bins. Bars below the dashed line mean overconfidence.",
  )


def _mistakes(
  matrix: np.ndarray, class_names: Sequence[str], count: int
) -> list[html.Table]:
  """Returns a table of the most frequent mistakes, if there are any."""
  examples = matrix.sum(axis=1)
  rows = [
    (
      _short(class_names[label]),
      _short(class_names[prediction]),
      times,
      f"{times / examples[label]:.1%}",
    )
    for label, prediction, times in plots.frequent_mistakes(matrix, count)
  ]
  head = ("label", "prediction", "times", "of the class")
  caption = "Most frequent mistakes"
  return [html.Table(head, rows, caption, numbers=(2, 3))] if rows else []


def _class_tables(
  head: Sequence[str], rows: Sequence[tuple], numbers: Sequence[int]
) -> Markup:
  """Renders rows, sorted from worst to best; of many, only the two ends."""
  parts = {f"All {len(rows)} classes, the worst first": rows}
  if len(rows) > _MAX_CLASS_ROWS:
    parts = {
      f"The {_WORST_AND_BEST} worst": rows[:_WORST_AND_BEST],
      f"The {_WORST_AND_BEST} best": rows[: -_WORST_AND_BEST - 1 : -1],
    }
  return html.tables(
    *(html.Table(head, rows, title, numbers) for title, rows in parts.items())
  )


def _short(class_name: str) -> str:
  return shorten(class_name, _MAX_NAME_LENGTH)

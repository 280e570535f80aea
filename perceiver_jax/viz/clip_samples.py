"""The report's parts about clips: to see and hear, and scores of classes."""

import base64
from collections.abc import (
  Mapping,
  Sequence,
)
from typing import NamedTuple

from perceiver_jax.viz import html

# Of more classes, only so many of both ends are shown.
_ALL_CLASSES, _SOME_CLASSES = 40, 15


class Media(NamedTuple):
  """A file that a browser plays.

  Attributes:
    name: what it is; "" for nothing to say.
    kind: its media type, 'video/mp4' or 'audio/wav'.
    file: its bytes.
  """

  name: str
  kind: str
  file: bytes


class Clip(NamedTuple):
  """A clip with what is said about it.

  Attributes:
    media: its files.
    captions: by what they tell, the truth and the answer for example.
  """

  media: Sequence[Media]
  captions: Mapping[str, str]


def clips(samples: Sequence[Clip]) -> str:
  """Cards with players and captions."""
  if not samples:
    return ""
  cards = "".join(map(_card, samples))
  silent = not any(sample.media for sample in samples)
  hint = (
    "They could not be made into files that a browser plays. Where PyAV and"
    " soundfile are missing: pip install 'perceiver_jax[media]'; else the"
    " run's log says why."
    if silent
    else "Held-out clips, as the model takes them."
  )
  return (
    f'<h2>Sample clips</h2>\n<p class="quiet">{html.text(hint)}</p>\n'
    f'<div class="cards">\n{cards}</div>\n'
  )


def class_scores(rows: Sequence[tuple[str, float, float, int]]) -> str:
  """How well each class is told from the others; of many, the two ends.

  Args:
    rows: (class, average precision, area under the curve, positive examples);
      a class without examples has NaN and is left out.
  """
  known = sorted((r for r in rows if r[1] == r[1]), key=lambda row: -row[1])
  if not known:
    return ""
  parts = {f"All {len(known)} classes, the best first": known}
  if len(known) > _ALL_CLASSES:
    parts = {
      f"The {_SOME_CLASSES} best": known[:_SOME_CLASSES],
      f"The {_SOME_CLASSES} worst": known[-_SOME_CLASSES:],
    }
  head = ("class", "average precision", "area under ROC", "clips")
  tables = "".join(
    html.table(
      head,
      [(name, f"{p:.3f}", f"{a:.3f}", int(n)) for name, p, a, n in chosen],
      caption=caption,
      numbers=(1, 2, 3),
    )
    for caption, chosen in parts.items()
  )
  return f"<h2>Classes</h2>\n{tables}"


def _card(sample: Clip) -> str:
  players = "".join(map(_player, sample.media))
  lines = "<br>".join(
    f"{html.text(name)}: {html.text(value)}"
    for name, value in sample.captions.items()
  )
  return f"<figure>{players}<figcaption>{lines}</figcaption></figure>\n"


def _player(media: Media) -> str:
  tag = media.kind.partition("/")[0]
  loops = " loop" if tag == "video" else ""
  source = base64.b64encode(media.file).decode()
  label = html.text(media.name or tag)
  shown = f'<p class="quiet">{html.text(media.name)}</p>' if media.name else ""
  return (
    f'{shown}<{tag} controls{loops} aria-label="{label}"'
    f' src="data:{html.text(media.kind)};base64,{source}"></{tag}>\n'
  )

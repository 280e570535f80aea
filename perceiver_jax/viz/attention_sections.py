"""Sections on attention, for the run report or for separate pages."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from perceiver_jax.viz import html
from perceiver_jax.viz.sections import Section


class TextAttention(NamedTuple):
  """The attention of one latent to a text.

  Attributes:
    title: title of the text.
    spans: characters or subwords, each with the attention to it from 0 to 1.
  """

  title: str
  spans: Sequence[tuple[str, float]]


def latent_attention(figure: np.ndarray) -> Section:
  """Shows the attention of single latents to an input.

  Args:
    figure: uint8 [h, w, 3], from `attention_figures`.
  """
  return Section(
    "Attention of single latents",
    html.render("figure", image=figure, alt="attention maps of some latents"),
    "Attention logits, before the softmax, of some latents in each"
    " cross-attend; each map has its own color scale, bright is high.",
  )


def text_attention(rows: Sequence[TextAttention], values: str) -> Section:
  """Shows a text once for each latent, colored by attention.

  Args:
    rows: the attention of each latent.
    values: name of the values, for the description.
  """
  return Section(
    "Attention of single latents",
    html.render("text_attention", rows=rows),
    f"Color is {values}; the darkest is the highest of each latent.",
  )


def page(title: str, sections: Sequence[Section]) -> str:
  """Returns a self-contained HTML file of sections."""
  return html.render("report", title=title, summary=[], sections=sections)

"""The page of masked language models."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.demo_pages import examples, page
from experiments.predictions import fill_mask
from experiments.predictions.attention_maps import (
  attention_text,
  attention_values,
)
from perceiver_jax import weights as weights_lib
from perceiver_jax.tasks import masked_lm
from perceiver_jax.viz import html, sections


def make(
  spec: dict[str, Any], loaded: weights_lib.Weights | None, folder: Path
) -> page.Page:
  """Makes the page; see `page.make`."""
  del folder
  has_latents = page.has_latents(spec)
  options = {"return_attention": "logits"} if has_latents else {}
  model = fill_mask.load(loaded, **options)

  def predict(text, words, latents="", head=""):
    fill_mask.check(text, words)
    ids = fill_mask.tokenize(text, words, model.tokenizer)
    model.check_length(ids)
    model_outputs = model.apply(ids)
    parts = _filled(model, ids, model_outputs, text if words else "")
    if has_latents:
      chosen = page.latent_options(latents, head)
      shown = attention_values.of_encoder(model_outputs, softmax=True, **chosen)
      parts += attention_text.draw(ids, shown, 0, model.tokenizer)
    return [parts]

  return page.Page(
    "Masked language model",
    "Text with gaps, and what the model puts into them. Each gap is a byte or a"
    " subword, and is filled independently of the others.",
    [
      page.Input("text", "Text", "with [MASK] for each gap"),
      page.Input("text", "Words to mask", "or words of the text to mask"),
      *page.LATENT_INPUTS * has_latents,
    ],
    [page.Output("sections", "Filled text")],
    predict,
    examples.masked_texts(spec["adapter"]["max_length"]),
  )


def _filled(
  model: fill_mask.LanguageModel, ids: Any, model_outputs: Any, text: str
) -> list[sections.Section]:
  """Returns the filled text, and the likeliest tokens of each gap.

  Args:
    model: The language model.
    ids: The tokens of the text with gaps.
    model_outputs: Its outputs.
    text: The text without gaps, or "" if it is not known.
  """
  tokenizer = model.tokenizer
  probabilities = fill_mask.probabilities(model_outputs)
  filled = fill_mask.fill(ids, probabilities)
  # Of an unknown text, every prediction is shown as a right one.
  original = tokenizer.encode(text) if text else filled
  spans = masked_lm.spans(original, ids != filled, filled, tokenizer)
  section = sections.masked_tokens([spans])
  description = "Predictions are colored."
  if text:
    description += " After a wrong one, the original follows in brackets."
  rows = [
    (i, "   ".join(f"{token!r} {share:.1%}" for token, share in top))
    for i, top in fill_mask.top_tokens(ids, probabilities, tokenizer).items()
  ]
  table = html.Table(("position", "most likely tokens"), rows, code=True)
  return [
    dataclasses.replace(section, title="", description=description),
    sections.Section("Most likely tokens", html.tables(table), folded=True),
  ]

"""The page of models of the tasks of GLUE."""

from pathlib import Path
from typing import Any

from experiments.demo_pages import examples, page
from experiments.predictions import classify_text
from experiments.predictions.attention_maps import (
  attention_text,
  attention_values,
)
from perceiver_jax import weights as weights_lib
from perceiver_jax.data.text import byte_tokenizer
from perceiver_jax.errors import UserError


def make(
  spec: dict[str, Any], loaded: weights_lib.Weights | None, folder: Path
) -> page.Page:
  """Makes the page; see `page.make`."""
  del loaded, folder  # Such weights alone lack the names of the classes.
  has_latents = page.has_latents(spec)
  options = {"return_attention": "logits"} if has_latents else {}
  model = classify_text.load(**options)
  tasks, texts = model.task.tasks, model.task.texts

  def predict(name, first, second, latents="", head=""):
    given = [first, second][: len(tasks[name].texts)]
    if not all(text.strip() for text in given):
      raise UserError(f"{name} takes {len(given)} text(s); one is missing")
    if len(given) == 1 and second.strip():
      raise UserError(f"{name} takes a single text; leave the second empty")
    batch = texts.batch_of(name, [given])
    model_outputs = model.apply(batch)
    row = model_outputs.logits[0]
    shown: list[Any] = [None, texts.answer(name, row)[0]]
    if tasks[name].classes:
      shares = texts.probabilities(name, row).tolist()
      shown[0] = dict(zip(tasks[name].classes, shares, strict=True))
    if has_latents:
      chosen = page.latent_options(latents, head)
      attention = attention_values.of_encoder(
        model_outputs, softmax=True, **chosen
      )
      before = texts.token_before(int(batch["task"][0])) is not None
      ids = batch["tokens"][0][before:]
      ids = ids[ids != byte_tokenizer.PAD]
      shown.append(
        attention_text.draw(ids, attention, int(before), texts.tokenizer)
      )
    return shown

  attention = [page.Output("sections", "Attention")]
  return page.Page(
    "Text classification",
    "The class or the score of a text, or of a pair of texts.",
    [
      page.Input("choice", "Task", choices=list(tasks)),
      page.Input("text", "Text"),
      page.Input("text", "Second text", "if the task is about pairs"),
      *page.LATENT_INPUTS * has_latents,
    ],
    [
      page.Output("classes", "Classes"),
      page.Output("text", "Answer"),
      *attention * has_latents,
    ],
    predict,
    examples.texts(list(tasks)),
  )

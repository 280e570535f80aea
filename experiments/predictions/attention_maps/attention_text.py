"""Attention of single latents to the characters of texts."""

from collections.abc import Sequence

import jax
import numpy as np
from absl import flags

from experiments import launch
from experiments.predictions import classify_text, fill_mask, models, outputs
from experiments.predictions.attention_maps import attention_values
from perceiver_jax import files
from perceiver_jax import weights as weights_lib
from perceiver_jax.data.text import byte_tokenizer, tokenizers
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import glue
from perceiver_jax.tasks.shared import text_attention
from perceiver_jax.viz import attention_sections
from perceiver_jax.viz.sections import Section

_TITLE_LENGTH = 60


def run(arguments: Sequence[str], loaded: weights_lib.Weights | None) -> None:
  """Saves a page for each text, which shows it once for each latent.

  Args:
    arguments: Texts; [MASK] stands for a masked token.
    loaded: The weights of --weights; None for a run.

  Raises:
    UserError: A text is empty, or the model does not take it.
  """
  if not all(text.strip() for text in arguments):
    raise UserError("a text is empty; leave it out, or write one in quotes")
  weights = models.load_weights(
    ["masked_lm", "token", "multitask_classification"],
    "language_bytes",
    loaded=loaded,
  )
  tokenizer = fill_mask.load_tokenizer(weights)
  length = weights.spec["adapter"]["max_length"]
  before = _tokens_before(weights)
  texts = [fill_mask.tokenize(text, "", tokenizer) for text in arguments]
  tokens = [np.concatenate([before, text]) for text in texts]
  rows, masks = byte_tokenizer.pad(tokens, length)
  apply = models.jit_apply(weights, return_attention="logits")
  folder = outputs.output_folder()
  for i, (text, ids) in enumerate(zip(arguments, texts, strict=True)):
    one = slice(i, i + 1)
    model_outputs = jax.device_get(apply(rows[one], input_mask=masks[one]))
    shown = attention_values.of_encoder(model_outputs, softmax=True)
    page = attention_sections.page(
      text[:_TITLE_LENGTH], draw(ids, shown, len(before), tokenizer)
    )
    path = outputs.unused_path(folder, "text-attention.html")
    with outputs.writing(path):
      files.write_text(path, page)
    print(text)
    print(f"  {path}")


def _tokens_before(weights: weights_lib.Weights) -> np.ndarray:
  """Returns the tokens that the task of a run on GLUE puts before a text.

  Raises:
    UserError: The weights are of such a run, and the run is not given.
  """
  before = []
  if weights.spec["decoder"]["kind"] == "multitask_classification":
    folder = models.run_of_weights()
    if not folder and not models.uses_run():
      raise UserError(
        f"--weights={flags.FLAGS.weights} is of a run on GLUE, but lacks its"
        " tasks; give the folder of the run with --workdir"
      )
    _, task, _ = launch.saved_run(folder)
    if isinstance(task, glue.Glue):
      number = list(task.tasks).index(classify_text.choose_task(task))
      before = [task.texts.token_before(number)]
  return np.array([x for x in before if x is not None], np.int32)


def draw(
  ids: np.ndarray,
  shown: attention_values.Shown,
  num_before: int,
  tokenizer: tokenizers.Tokenizer,
) -> list[Section]:
  """Returns a section with the text's attention for each cross-attend.

  Args:
    ids: The tokens [L] of the text.
    shown: The attention to them and the tokens before.
    num_before: Number of tokens before the text.
    tokenizer: The tokenizer of the model.
  """
  return [
    text_attention.section(
      attention[..., num_before:],
      ids,
      tokenizer,
      shown.latents,
      shown.head,
      is_softmax=shown.is_softmax,
    )
    for attention in shown.attention
  ]

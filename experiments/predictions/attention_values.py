"""The attention that `predict attention` shows, chosen by its flags."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from scipy import special

from perceiver_jax.errors import UserError
from perceiver_jax.viz import attention_maps


class Shown(NamedTuple):
  """Attention to one input, with the latents and the head to show.

  Attributes:
    attention: Attention of each cross-attend, [heads, N, M].
    latents: Indices of latents.
    head: Index of a head; None for the mean over all.
    is_softmax: Whether `attention` has weights, not logits.
  """

  attention: Sequence[np.ndarray]
  latents: Sequence[int]
  head: int | None
  is_softmax: bool


def of_encoder(model_outputs: Any, *, softmax: bool) -> Shown:
  """Returns the attention of the encoder's cross-attends to one example.

  Args:
    model_outputs: `Outputs` with attention logits, of one example.
    softmax: Whether to show weights by default; --softmax and --nosoftmax
      override it.

  Raises:
    UserError: --latents or --head is not of this model.
  """
  values = flags.FLAGS
  is_softmax = softmax if values.softmax is None else values.softmax
  attention = [np.asarray(x[0]) for x in model_outputs.encoder_attention]
  if is_softmax:
    attention = [special.softmax(x, axis=-1) for x in attention]
  num_heads, num_latents = attention[0].shape[:2]
  if values.head is not None and values.head >= num_heads:
    raise UserError(
      f"--head={values.head}: the cross-attends have {num_heads} heads; give"
      f" 0 to {num_heads - 1}"
    )
  return Shown(attention, _latents(num_latents), values.head, is_softmax)


def _latents(num_latents: int) -> list[int]:
  """Returns the indices in --latents, by default 8 evenly spaced ones."""
  given = flags.FLAGS.latents
  if not given:
    return attention_maps.choose_latents(num_latents)
  for text in given:
    if not text.isdecimal() or int(text) >= num_latents:
      raise UserError(
        f"--latents={','.join(given)}: the model has {num_latents} latents;"
        f" give indices from 0 to {num_latents - 1}"
      )
  return [int(text) for text in dict.fromkeys(given)]

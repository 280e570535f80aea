"""The attention of the latents and the head that are to be shown."""

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


def of_encoder(
  model_outputs: Any,
  *,
  softmax: bool,
  latents: Sequence[str] | None = None,
  head: int | None = None,
) -> Shown:
  """Returns the attention of the encoder's cross-attends to one example.

  Args:
    model_outputs: `Outputs` with attention logits, of one example.
    softmax: Whether to show weights by default; --softmax and --nosoftmax
      override it.
    latents: Indices of latents; if empty, those of --latents, by default 8
      evenly spaced ones.
    head: Index of a head; if None, that of --head, by default the mean.

  Raises:
    UserError: The model does not have these latents or this head.
  """
  values = flags.FLAGS
  is_softmax = softmax if values.softmax is None else values.softmax
  head = values.head if head is None else head
  attention = [np.asarray(x[0]) for x in model_outputs.encoder_attention]
  if is_softmax:
    attention = [special.softmax(x, axis=-1) for x in attention]
  num_heads, num_latents = attention[0].shape[:2]
  if head is not None and not 0 <= head < num_heads:
    raise UserError(
      f"--head={head}: the cross-attends have {num_heads} heads; give"
      f" 0 to {num_heads - 1}"
    )
  chosen = _latents(latents or values.latents, num_latents)
  return Shown(attention, chosen, head, is_softmax)


def _latents(given: Sequence[str], num_latents: int) -> list[int]:
  """Returns the given indices, by default 8 evenly spaced ones."""
  if not given:
    return attention_maps.choose_latents(num_latents)
  for text in given:
    if not text.isdecimal() or int(text) >= num_latents:
      raise UserError(
        f"--latents={','.join(given)}: the model has {num_latents} latents;"
        f" give indices from 0 to {num_latents - 1}"
      )
  return [int(text) for text in dict.fromkeys(given)]

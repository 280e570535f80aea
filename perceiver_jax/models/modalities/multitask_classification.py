"""The decoder of GLUE, for one task or several (IO, section 4.1).

Shapes: T tasks; P outputs of the task with the most; E channels of a query.
"""

from collections.abc import Mapping
from typing import Any

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import decoders, layers, position_encoding
from perceiver_jax.models.inputs import InputArray
from perceiver_jax.models.typing import Array, Bool, Float, Int, ReturnAttention

QUERIES = ("task", "first_position", "first_latent")
# Logit of outputs that a task does not have. It is finite, because the gradient
# of a softmax with an infinite logit may be undefined.
_MASKED_LOGIT = -1e9


class MultitaskClassificationDecoder(decoders.QueryDecoder):
  """Decodes a query for each task; each task has a two-layer tanh head.

  Module names are those of `text.MaskedLmDecoder` and `text.TokenDecoder`, so
  that parameters of a pretrained model can be loaded by name.

  Args:
    outputs: Number of outputs by task; 0 leaves a task out. Tasks are numbered
      in the order of their names.
    query: "task": a learned query for each task. "first_position": the
      pretrained query of the first token. "first_latent": no query; the heads
      take the first latent, for a plain Transformer, whose latents are tokens.
    max_length: Rows of the pretrained query table, for "first_position".
    num_query_channels: E.
    num_hidden_channels: Width of the heads' hidden layer.
    **decoder: Arguments of `QueryDecoder`.

  Raises:
    ValueError: An unknown `query`, or no task has outputs.
  """

  def __init__(
    self,
    outputs: Mapping[str, int],
    query: str = "task",
    max_length: int = 2048,
    num_query_channels: int = 768,
    num_hidden_channels: int = 768,
    name: str | None = None,
    **decoder: Any,
  ):
    super().__init__(0, name=name, **decoder)
    if query not in QUERIES:
      raise ValueError(f"query {query!r}: choose one of {', '.join(QUERIES)}")
    self._outputs = {task: n for task, n in sorted(outputs.items()) if n}
    if not self._outputs:
      raise ValueError("no task has outputs: set one of decoder.outputs")
    self._query = query
    self._max_length = max_length
    self._num_query_channels = num_query_channels
    self._num_hidden_channels = num_hidden_channels

  def __call__(
    self,
    latents: Float[Array, "B N D"],
    inputs: InputArray | Float[Array, "B M C"] | None = None,
    input_mask: Bool[Array, "B M"] | None = None,
    queries: Int[Array, "B"] | None = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[Float[Array, "..."], Float[Array, "B H Q N"] | None]:
    """Returns the outputs of each example's task, or of all tasks.

    Args:
      latents: The processed latents.
      inputs: Unused.
      input_mask: Unused.
      queries: The task of each example; None asks for all tasks.
      return_attention: Whether to compute the decoder's weights or logits.

    Returns:
      [B, P], or [B, T, P] for all tasks, and the weights (or None). A task with
      fewer outputs than P is padded with -1e9.
    """
    del inputs, input_mask
    batch, count = latents.shape[0], len(self._outputs)
    if queries is None:
      tasks = jnp.broadcast_to(jnp.arange(count), (batch, count))
    else:
      tasks = queries[:, None]
    if self._query == "first_latent":
      norm = layers.LayerNorm("norm", self._execution)
      decoded, weights = norm(latents[:, :1]), None
    else:
      decoded, weights = super().__call__(
        self._rows(tasks), latents, return_attention=return_attention
      )
    outputs = self._predict(decoded, tasks)
    return (outputs if queries is None else outputs[:, 0]), weights

  @hk.transparent
  def _rows(self, tasks: jax.Array) -> jax.Array:
    """Returns queries [B, Q, E] of tasks [B, Q]; Q is 1 if all share one."""
    if self._query == "task":
      table = position_encoding.TrainablePositions(
        len(self._outputs), self._num_query_channels, name="task_query"
      )()
      return table[tasks]
    table = position_encoding.TrainablePositions(
      self._max_length, self._num_query_channels, name="query"
    )()
    return position_encoding.repeat_batch(table[:1], len(tasks))

  @hk.transparent
  def _predict(self, decoded: jax.Array, tasks: jax.Array) -> jax.Array:
    """Applies each task's head to [B, Q or 1, E]; returns [B, Q, P]."""
    max_outputs = max(self._outputs.values())
    outputs = []
    for task, count in self._outputs.items():
      hidden = hk.Linear(self._num_hidden_channels, name=f"{task}_hidden")
      project = hk.Linear(count, name=f"{task}_output")
      out = project(jnp.tanh(hidden(decoded))).astype(jnp.float32)
      padding = [(0, 0), (0, 0), (0, max_outputs - count)]
      outputs.append(jnp.pad(out, padding, constant_values=_MASKED_LOGIT))
    # All heads are applied, since they are small compared to the model.
    stacked = jnp.stack(outputs, 2)  # [B, Q or 1, T, P]
    return jnp.take_along_axis(stacked, tasks[..., None, None], 2)[:, :, 0]

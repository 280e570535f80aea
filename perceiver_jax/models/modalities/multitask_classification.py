"""Classes and scores of texts, of one task or of several (IO, section 4.1).

Shapes: T tasks, P the most outputs of one of them; E channels of a query.
"""

from collections.abc import Mapping
from typing import Any

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import (
  decoders,
  layers,
  position_encoding,
)
from perceiver_jax.models.inputs import InputArray
from perceiver_jax.models.typing import (
  Array,
  Bool,
  Float,
  Int,
)

QUERIES = ("task", "first_position", "first_latent")
# In the place of an output that a task has not; a finite number, so that the
# gradient of a softmax over it is 0 and not undefined.
_NEVER = -1e9


class MultitaskClassificationDecoder(decoders.QueryDecoder):
  """One query a task, and of each task a two-layer head with tanh between.

  Modules are called as in `text.MaskedLmDecoder` and `text.TokenDecoder`, so
  that the parameters of a pretrained model are found by name.

  Args:
    outputs: Numbers to predict by task; 0 leaves a task out. Tasks are numbered
      in the order of their names.
    query: "task": a learned query for each. "first_position": that of the
      first token, as it was pretrained. "first_latent": none, the first latent
      is read; for a plain Transformer, whose latents are the tokens.
    max_length: Rows of the pretrained table of queries, for "first_position".
    num_query_channels: E.
    num_hidden_channels: Width of the heads' hidden layer.
    **decoder: Arguments of `QueryDecoder`.

  Raises:
    ValueError: There is no such query, or no task.
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
      raise ValueError("outputs: no task has any")
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
    return_attention: bool = False,
  ) -> tuple[Float[Array, "..."], Float[Array, "B H Q N"] | None]:
    """Predicts.

    Args:
      latents: Of the encoder.
      inputs: Not read.
      input_mask: Not read.
      queries: The task of each example; None asks for all tasks.
      return_attention: Whether to compute the decoder's weights.

    Returns:
      [B, P], or [B, T, P] of all tasks, and the weights (or None). A task with
      fewer outputs than P has -1e9 in the place of the others.
    """
    del inputs, input_mask
    batch, count = latents.shape[0], len(self._outputs)
    if queries is None:
      tasks = jnp.broadcast_to(jnp.arange(count), (batch, count))
    else:
      tasks = queries[:, None]
    if self._query == "first_latent":
      norm = layers.LayerNorm("norm", self._execution)
      read, weights = norm(latents[:, :1]), None
    else:
      read, weights = super().__call__(
        self._rows(tasks), latents, return_attention=return_attention
      )
    found = self._predict(read, tasks)
    return (found if queries is None else found[:, 0]), weights

  @hk.transparent
  def _rows(self, tasks: jax.Array) -> jax.Array:
    """Output queries [B, Q, E] of tasks [B, Q]; Q is 1 if all share one."""
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
  def _predict(self, read: jax.Array, tasks: jax.Array) -> jax.Array:
    """Each task's own head [B, Q, P]; `read` is [B, Q or 1, E]."""
    most = max(self._outputs.values())
    every = []
    for task, count in self._outputs.items():
      hidden = hk.Linear(self._num_hidden_channels, name=f"{task}_hidden")
      output = hk.Linear(count, name=f"{task}_output")
      found = output(jnp.tanh(hidden(read))).astype(jnp.float32)
      missing = [(0, 0), (0, 0), (0, most - count)]
      every.append(jnp.pad(found, missing, constant_values=_NEVER))
    # All heads are run: they are small beside the model.
    stacked = jnp.stack(every, 2)  # [B, Q or 1, T, P]
    return jnp.take_along_axis(stacked, tasks[..., None, None], 2)[:, :, 0]

"""Multi-head attention with its projections, and ways to fold them away.

Shapes as in the package glossary; F and V are the total widths of queries and
keys, and of values. `blocks` puts norms, residuals and an MLP around it.
"""

from typing import NamedTuple

import haiku as hk
import jax
import numpy as np
from jax import ad_checkpoint
from jax import numpy as jnp

from perceiver_jax.models import (
  attention,
  execution,
  layers,
  reading,
)
from perceiver_jax.models.inputs import InputArray
from perceiver_jax.models.typing import (
  Array,
  Bool,
  Float,
)

# Of `Attention`, by which checkpoint policies know them. The second layer of an
# MLP is an "output" too, but nothing on the way back asks for its result.
PROJECTIONS = ("query", "key", "value", "output")


class Memory(NamedTuple):
  """Keys and values of `Attention`.

  Attributes:
    keys: [B, M, H, F].
    values: [B, M, H, V].
    is_folded: Whether projections of queries and outputs are folded in.
  """

  keys: jax.Array
  values: jax.Array
  is_folded: bool


class Attention(hk.Module):
  """Projections around `attention.attend`.

  Args:
    num_heads: Number of heads; divides both widths.
    qk_channels: Total width of queries and keys.
    v_channels: Total width of values.
    output_channels: Width of the result.
  """

  def __init__(
    self,
    num_heads: int,
    qk_channels: int,
    v_channels: int,
    output_channels: int,
    name: str | None = None,
  ):
    super().__init__(name=name)
    for what, width in (("query/key", qk_channels), ("value", v_channels)):
      if num_heads < 1 or width % num_heads:
        raise ValueError(
          f"{num_heads} heads do not divide {width} {what} channels: change"
          " the number of heads or the channels"
        )
    self._num_heads = num_heads
    self._qk_channels = qk_channels
    self._v_channels = v_channels
    self._output_channels = output_channels

  def __call__(
    self,
    inputs_q: Float[Array, "B N D"],
    inputs_kv: Float[Array, "B M C"],
    mask: Bool[Array, "#B #N #M"] | None = None,
  ) -> Float[Array, "B N G"]:
    """Reads `inputs_kv` from `inputs_q`; one array for both is self-attention.

    What a query with no key to read gets is the output's bias.
    """
    if inputs_q is inputs_kv and _fuses():
      # Made once in a call: made again, Haiku would name them anew.
      *qkv, output = self._projections().values()
      q, k, v = map(self._heads, _fused(qkv, inputs_q))
      return output(attention.attend(q, k, v, mask))
    memory = self.memory(inputs_kv, inputs_q.shape[-1], fold=False)
    return self.recall(inputs_q, memory, mask)

  # Named like `__call__`, or Haiku would give it parameters of its own.
  @hk.name_like("__call__")
  def weights(
    self,
    inputs_q: Float[Array, "B N D"],
    inputs_kv: Float[Array, "B M C"],
    mask: Bool[Array, "#B #N #M"] | None = None,
  ) -> Float[Array, "B H N M"]:
    """The attention weights alone, for pictures. Call after `__call__`."""
    project = self._projections()
    q = self._heads(project["query"](inputs_q))
    k = self._heads(project["key"](inputs_kv))
    return attention.attention_weights(q, k, mask)

  @hk.name_like("__call__")
  def read(
    self,
    inputs_q: Float[Array, "b N D"],
    inputs: InputArray,
    norm: tuple[Float[Array, "C"], Float[Array, "C"]],
    query_mask: Bool[Array, "B N"] | None = None,
    input_mask: Bool[Array, "B M"] | None = None,
  ) -> Float[Array, "B N G"]:
    """The same as `__call__` on normalised inputs, but nothing runs over M.

    Only for one head; see `reading`.

    Args:
      inputs_q: Queries, normalised; b is B, or 1 if all examples share them.
      inputs: Not yet normalised.
      norm: Scale and offset of their LayerNorm.
      query_mask: True at queries that may read.
      input_mask: True at inputs that may be read.
    """
    execution.note(f"unprojected {inputs_q.shape[1]} x {inputs.shape[1]}")
    project, (scale, offset) = self._projections(), norm
    channels = scale.shape[0]
    w_k, _ = project["key"].parameters(channels)  # Its bias cancels.
    w_v, b_v = project["value"].parameters(channels)
    query = project["query"](inputs_q) * self._qk_channels**-0.5
    # The norm's offset adds the same to all logits of a query and cancels too.
    query = (query @ w_k.T) * scale.astype(query.dtype)
    data = inputs.data.astype(query.dtype)
    table = inputs.positions
    table = None if table is None else table.astype(query.dtype)
    out = reading.read(query, data, table, input_mask).astype(query.dtype)
    out = (out * scale.astype(out.dtype) + offset.astype(out.dtype)) @ w_v + b_v
    if input_mask is not None:
      out = jnp.where(input_mask.any(-1)[:, None, None], out, 0)
    if query_mask is not None:
      out = jnp.where(query_mask[..., None], out, 0)
    return project["output"](out)

  @hk.name_like("__call__")
  def memory(
    self,
    inputs_kv: Float[Array, "B M C"],
    query_channels: int,
    *,
    fold: bool,
  ) -> Memory:
    """Keys and values, to be read any number of times with `recall`.

    Args:
      inputs_kv: What is read, normalised.
      query_channels: Width of what will read.
      fold: Whether to bring keys and values to the queries' and the output's
        width, so that no projection runs over the queries: worth it for many
        queries, and possible with one head.
    """
    project = self._projections()
    k, v = project["key"](inputs_kv), project["value"](inputs_kv)
    if not fold:
      return Memory(self._heads(k), self._heads(v), False)
    w_q, b_q = project["query"].parameters(query_channels)
    w_o, _ = project["output"].parameters(self._v_channels)
    # The queries' bias adds to each key's logits: one channel more. `attend`
    # divides by the root of the width it sees.
    k = jnp.concatenate([k @ w_q.T, (k @ b_q)[..., None]], -1)
    k = k * (k.shape[-1] / self._qk_channels) ** 0.5
    return Memory(k[:, :, None], (v @ w_o)[:, :, None], True)

  @hk.name_like("__call__")
  def recall(
    self,
    inputs_q: Float[Array, "B N D"],
    memory: Memory,
    mask: Bool[Array, "#B #N #M"] | None = None,
  ) -> Float[Array, "B N G"]:
    """Reads a `memory`."""
    project = self._projections()
    if not memory.is_folded:
      q = self._heads(project["query"](inputs_q))
      out = attention.attend(q, memory.keys, memory.values, mask)
      return project["output"](out)
    _, b_o = project["output"].parameters(self._v_channels)
    ones = jnp.ones((*inputs_q.shape[:-1], 1), inputs_q.dtype)
    q = jnp.concatenate([inputs_q, ones], -1)[:, :, None]
    return attention.attend(q, memory.keys, memory.values, mask) + b_o

  def folding(
    self, num_queries: int, query_channels: int, num_inputs: int, channels: int
  ) -> str:
    """Which side to fold projections into, by counted multiply-adds.

    Returns:
      "inputs" (`read`), "latents" (`memory`) or "never".
    """
    choice = execution.current().absorb
    if choice != "auto" or self._num_heads > 1:
      return choice if self._num_heads == 1 else "never"
    n, e, m, c = num_queries, query_channels, num_inputs, channels
    f, v, g = self._qk_channels, self._v_channels, self._output_channels
    costs = {
      "never": n * e * f + m * c * (f + v) + n * m * (f + v) + n * v * g,
      "inputs": n * e * f + n * f * c + 2 * n * m * c + n * c * v + n * v * g,
      "latents": (
        m * c * (f + v) + m * (f * (e + 1) + v * g) + n * m * (e + 1 + g)
      ),
    }
    return min(costs, key=costs.get)

  @hk.transparent
  def _projections(self) -> dict[str, layers.Linear]:
    qk, v = self._qk_channels, self._v_channels
    sizes = zip(PROJECTIONS, (qk, qk, v, self._output_channels), strict=True)
    return {name: layers.Linear(size, name) for name, size in sizes}

  def _heads(self, x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-1], self._num_heads, -1)


def _fused(projections: list[layers.Linear], x: jax.Array) -> list[jax.Array]:
  """What each projection makes of `x`, from one product."""
  pairs = [project.parameters(x.shape[-1]) for project in projections]
  ends = np.cumsum([b.shape[0] for _, b in pairs])
  w, b = (jnp.concatenate(parts, -1) for parts in zip(*pairs, strict=True))
  found = jnp.split(layers.linear(x, w, b), ends[:-1], -1)
  return list(map(ad_checkpoint.checkpoint_name, found, PROJECTIONS))


def _fuses() -> bool:
  choice = execution.current().fuse_qkv
  # On a CPU, joining the weights costs more than one larger product saves.
  return choice == "always" or (
    choice == "auto" and jax.default_backend() != "cpu"
  )

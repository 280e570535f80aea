"""A plain Transformer as the encoder: the papers' baseline.

Its latents are the inputs, so its cost grows with the square of their number.
Shapes as in `perceiver_jax.models`.
"""

import haiku as hk
import jax

from perceiver_jax.models import blocks, layers
from perceiver_jax.models.inputs import InputArray, as_input_array
from perceiver_jax.models.ops.execution import AUTO, Execution
from perceiver_jax.models.typing import Array, Bool, Float, ReturnAttention


class TransformerEncoder(hk.Module):
  """Self-attends over the input array.

  Byte BERT has 6 layers (Perceiver IO v3, Table 11).

  Args:
    num_layers: Number of self-attends, each with its own weights.
    num_heads: Heads of each self-attend.
    widening_factor: MLP hidden width over C.
    remat: Whether the backward pass recomputes whole layers.
    num_channels: Width of a linear layer on the inputs; 0 for none.
    execution: How it is computed.
  """

  def __init__(
    self,
    num_layers: int = 6,
    num_heads: int = 8,
    widening_factor: int = 4,
    remat: bool = False,
    num_channels: int = 0,
    execution: Execution = AUTO,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_layers = num_layers
    self._layer = {
      "num_heads": num_heads,
      "widening_factor": widening_factor,
      "execution": execution,
    }
    self._remat = remat
    self._num_channels = num_channels
    self._execution = execution

  def __call__(
    self,
    inputs: InputArray | Float[Array, "B M C"],
    input_mask: Bool[Array, "B M"] | None = None,
    return_attention: ReturnAttention = False,
    initial_latents: jax.Array | None = None,
  ) -> tuple[Float[Array, "B M C"], list]:
    """Returns the inputs after all layers, always without weights.

    Raises:
      ValueError: `initial_latents` are given.
    """
    del return_attention
    if initial_latents is not None:
      raise ValueError(
        "the latents of a Transformer are its inputs: leave initial_latents"
        " out, or use the encoder kind 'perceiver'"
      )
    make = lambda: blocks.SelfAttention(**self._layer, name="self_attend")
    block = blocks.LatentTransformer(
      self._num_layers, make, self._remat, self._execution, name="block_0"
    )
    mask = blocks.cross_attention_mask(None, input_mask)
    x = as_input_array(inputs).zero_padding(input_mask).array()
    if self._num_channels:
      x = layers.Linear(self._num_channels, self._execution, "embedding")(x)
    return block(x, mask), []

"""The architecture of both papers: encode, process, decode.

`Perceiver` is an adapter that turns raw data into an input array, an encoder
that reads it into latents, and a decoder. With `AverageAndProjectDecoder` and
repeated cross-attends it is the ICML model (arXiv 2103.03206); with output
queries it is Perceiver IO (arXiv 2107.14795). Shapes as in the package
glossary.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax

from perceiver_jax.models import inputs as inputs_lib
from perceiver_jax.models.typing import Array, Bool, Float, ReturnAttention


class Outputs(NamedTuple):
  """The outputs of a `Perceiver`.

  Attributes:
    logits: The decoded outputs: an array, or a mapping of arrays by modality.
    latents: The processed latents [B, N, D], or `HierarchicalLatents`.
    encoder_attention: Weights or logits [B, H, N, M] of each cross-attend, if
      asked for.
    decoder_attention: Weights or logits [B, H, O, N], if asked for.
  """

  logits: Any
  latents: Any
  encoder_attention: tuple[jax.Array, ...]
  decoder_attention: jax.Array | None


class Perceiver(hk.Module):
  """An adapter, an encoder and a decoder.

  Args:
    adapter: Raw data to the input array: `adapter(raw, is_training=...)`
      returns [B, M, C], or inputs of a kind that its encoder knows; its method
      `parts`, if it has one, an `InputArray`.
    encoder: The input array to latents and weights; see `PerceiverEncoder`.
    decoder: Latents to predictions; see `decoders`. Its method `check_raw`, if
      it has one, refuses raw data that it can't decode.
  """

  def __init__(
    self,
    adapter: Callable[..., jax.Array],
    encoder: Callable[..., tuple[jax.Array, list]],
    decoder: Callable[..., tuple[Any, jax.Array | None]],
    name: str | None = None,
  ):
    super().__init__(name=name)
    self.adapter = adapter
    self.encoder = encoder
    self.decoder = decoder

  def __call__(
    self,
    raw: Any,
    *,
    is_training: bool,
    input_mask: Bool[Array, "B M"] | None = None,
    latents: Any = None,
    queries: Any = None,
    return_attention: ReturnAttention = False,
    initial_latents: Float[Array, "B N D"] | Float[Array, "N D"] | None = None,
    dropout_keys: Array | None = None,
  ) -> Outputs:
    """Encodes, processes and decodes.

    Args:
      raw: The adapter's raw data: an array, or arrays by modality.
      is_training: Whether BatchNorm uses the statistics of this batch.
      input_mask: True at real input elements.
      latents: `Outputs.latents` of an earlier call on the same data: nothing is
        encoded again, so that a large output can be decoded in parts.
      queries: The outputs to decode, for decoders that can choose; None decodes
        all.
      return_attention: True also returns the attention weights, "logits" the
        attention logits, whose softmax is the weights (masked ones are -1e30).
      initial_latents: Latents from which a `PerceiverEncoder` starts instead of
        the learned ones.
      dropout_keys: A random key for each example, uint32 [B, 2], of encoders
        with dropout; None for no dropout.

    Raises:
      ValueError: Both kinds of latents are given, or `dropout_keys` to an
        encoder without dropout, or the decoder refuses the raw data.
    """
    if latents is not None and initial_latents is not None:
      raise ValueError(
        "latents are processed already and initial_latents are not: give one"
      )
    dropout = {}
    if dropout_keys is not None:
      if "dropout_keys" not in inspect.signature(self.encoder).parameters:
        raise ValueError("the encoder has no dropout: leave dropout_keys out")
      dropout["dropout_keys"] = dropout_keys
    if check_raw := getattr(self.decoder, "check_raw", None):
      check_raw(raw)
    inputs = inputs_lib.of_adapter(self.adapter, raw, is_training=is_training)
    encoder_attention = []
    if latents is None:
      latents, encoder_attention = self.encoder(
        inputs, input_mask, return_attention, initial_latents, **dropout
      )
    logits, decoder_attention = self.decoder(
      latents,
      inputs,
      input_mask,
      queries=queries,
      return_attention=return_attention,
    )
    return Outputs(logits, latents, tuple(encoder_attention), decoder_attention)

"""The type of the table of published models, and helpers to fill it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from perceiver_jax.models.encoder import EncoderConfig


class Entry(NamedTuple):
  """A model of the papers.

  Attributes:
    spec: Argument of `zoo.build`.
    raw: Shapes and types of one raw example, without the batch axis: an array,
      or arrays by modality.
    num_parameters: Exact number of trainable parameters.
    note: Explanation of a difference from the published figures.
    has_input_mask: Whether the model takes an input mask.
    published_parameters: Parameters in millions as printed; "" if unpublished.
    published_flops: Operations in billions as printed; "" if unpublished.
    source: Paper, and table or section.
  """

  spec: Mapping[str, Any]
  raw: Any
  num_parameters: int
  note: str = ""
  has_input_mask: bool = False
  published_parameters: str = ""
  published_flops: str = ""
  source: str = ""

  def example(self, batch_size: int = 1) -> Any:
    """Returns the shapes of a batch of raw data."""
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape), x.dtype), self.raw
    )


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
  """Returns the shape and type of the raw data of one example."""
  return jax.ShapeDtypeStruct(shape, dtype)


def encoder(**sizes: Any) -> dict[str, Any]:
  """Returns ImageNet's encoder section of a spec, changed by `sizes`."""
  return EncoderConfig()._asdict() | sizes


def deep(
  num_latents: int, channels: int, depth: int, **sizes: Any
) -> dict[str, Any]:
  """Returns an encoder with one block of `depth` self-attends."""
  return encoder(
    num_latents=num_latents,
    num_latent_channels=channels,
    num_blocks=1,
    num_self_attends_per_block=depth,
    **sizes,
  )

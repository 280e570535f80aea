"""Numerical precision of a model: "float32" or "bfloat16".

"bfloat16" computes in bfloat16, except for the optimizer, position encodings,
norms, softmax, logits and loss; these and all parameters are in float32.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import jmp

from perceiver_jax.errors import UserError
from perceiver_jax.models import encoder, layers, zoo
from perceiver_jax.models.architectures import (
  hierarchical_perceiver,
  perceiver_ar,
  resampler,
  transformer,
)
from perceiver_jax.models.modalities import (
  arrays,
  entities,
  image,
  multimodal,
  points,
)

PRECISIONS = ("float32", "bfloat16")

_NORMS = (layers.LayerNorm, hk.BatchNorm)
# Convolutions don't cast float32 inputs, such as those of `ConvexUpsample`.
_CONVOLUTIONS = (hk.Conv2D, hk.Conv2DTranspose, hk.Conv3DTranspose)
# Coordinates in bfloat16 would lose the high Fourier bands. The adapters are
# cheap, and the encoder casts their output to bfloat16.
_FLOAT32_ADAPTERS = {
  arrays.ArraysAdapter,
  entities.EntityFeaturesAdapter,
  points.PointsAdapter,
}
# PointNet's encoder reads coordinates as they are, so it stays in float32.
_ENCODERS = {
  encoder.PerceiverEncoder,
  hierarchical_perceiver.HierarchicalEncoder,
  perceiver_ar.PerceiverAREncoder,
  transformer.TransformerEncoder,
  resampler.Resampler,
  resampler.MeanPooling,
}


class _ImagePolicy(jmp.Policy):
  """Leaves the boxes of crops as they are, since they are coordinates."""

  def cast_to_compute(self, x: Any) -> Any:
    cast, box = super().cast_to_compute, jax.tree_util.DictKey("crop_box")
    return jax.tree_util.tree_map_with_path(
      lambda path, leaf: leaf if box in path else cast(leaf), x
    )


class _ParametersPolicy(jmp.Policy):
  """Casts parameters and outputs, but leaves raw data to the inner modules."""

  def cast_to_compute(self, x: Any) -> Any:
    is_parameter = isinstance(x, jax.Array)
    return super().cast_to_compute(x) if is_parameter else x


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
  """Makes models that are called in this context compute in a precision.

  Raises:
    UserError: `name` is not in `PRECISIONS`.
  """
  if name not in PRECISIONS:
    raise UserError(
      f"config.precision is {name!r}; choose one of {', '.join(PRECISIONS)}"
    )
  with contextlib.ExitStack() as stack:
    if name == "bfloat16":
      half, full = jnp.bfloat16, jnp.float32
      inner = _ENCODERS | {*zoo.ADAPTERS.values()} - _FLOAT32_ADAPTERS
      inner |= {*_CONVOLUTIONS}
      policies = dict.fromkeys(inner, jmp.Policy(full, half, half))
      outer = dict.fromkeys(zoo.DECODERS.values(), jmp.Policy(full, half, full))
      norms = dict.fromkeys(_NORMS, jmp.Policy(full, full, half))
      policies |= outer | norms
      policies[image.ImageAdapter] = _ImagePolicy(full, half, half)
      # Each of its adapters casts its own inputs, or needs them in float32.
      policies[multimodal.MultimodalAdapter] = _ParametersPolicy(
        full, half, half
      )
      for module, policy in policies.items():
        stack.enter_context(hk.mixed_precision.push_policy(module, policy))
    yield

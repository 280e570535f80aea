"""Functions for users of the library; `perceiver_jax` exports all of them.

docs/using_the_models.md shows each in use.
"""

from typing import Any

from perceiver_jax.models import zoo
from perceiver_jax.models.ops.execution import Execution as Execution
from perceiver_jax.models.perceiver import Outputs as Outputs
from perceiver_jax.models.position_encoding import (
  fourier_features as fourier_features,
)
from perceiver_jax.models.zoo import build as build
from perceiver_jax.models.zoo import get_spec as get_spec
from perceiver_jax.weights import Weights as Weights
from perceiver_jax.weights import transform as transform


def published_models() -> tuple[str, ...]:
  """Returns the names of both papers' models; docs/models.md lists them."""
  return tuple(zoo.MODELS)


def input_shapes(name: str, batch_size: int = 1) -> Any:
  """Returns the shapes of a published model's raw inputs, for `eval_shape`.

  Raises:
    ValueError: There is no such model.
  """
  zoo.get_spec(name)  # Checks the name.
  return zoo.MODELS[name].example(batch_size)

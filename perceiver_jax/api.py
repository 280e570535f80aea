"""Functions for users of the library; `perceiver_jax` exports all of them.

docs/using_the_models.md shows each in use.
"""

from typing import Any

from perceiver_jax import weights
from perceiver_jax.models import perceiver, position_encoding, zoo
from perceiver_jax.models.ops import execution

Execution = execution.Execution
Outputs = perceiver.Outputs
Weights = weights.Weights
build = zoo.build
fourier_features = position_encoding.fourier_features
get_spec = zoo.get_spec
load_weights = weights.load
save_weights = weights.save
transform = weights.transform


def published_models() -> tuple[str, ...]:
  """Returns the names of the papers' models; docs/models.md lists them."""
  return tuple(zoo.MODELS)


def input_shapes(name: str, batch_size: int = 1) -> Any:
  """Returns the shapes of a published model's raw inputs, for `eval_shape`.

  Raises:
    ValueError: There is no such model.
  """
  zoo.get_spec(name)  # Checks the name.
  return zoo.MODELS[name].example(batch_size)

"""Perceiver and Perceiver IO in JAX with dm-haiku.

- `published_models()` names the papers' models, `get_spec(name)` describes
  one, and `input_shapes(name)` is what it takes.
- `transform(spec)` makes pure functions `init` and `apply` of a spec at any
  size; `build(spec)` makes the Haiku module, inside a Haiku transform.
- `load_weights(path)` and `save_weights(path, weights)`.

docs/using_the_models.md has an example of each.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from perceiver_jax.api import (
    Execution,
    Outputs,
    Weights,
    build,
    fourier_features,
    get_spec,
    input_shapes,
    load_weights,
    published_models,
    save_weights,
    transform,
  )

# Sets OpenCV's limit of pixels, which OpenCV reads when it is loaded.
from perceiver_jax import limits as _limits  # noqa: F401

__version__ = "0.1.0"

__all__ = [
  "Execution",
  "Outputs",
  "Weights",
  "build",
  "fourier_features",
  "get_spec",
  "input_shapes",
  "load_weights",
  "published_models",
  "save_weights",
  "transform",
]


def __getattr__(name: str) -> Any:
  # Imported at first use: processes that only read data need no models.
  if name in __all__:
    return getattr(importlib.import_module("perceiver_jax.api"), name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
  return [*globals(), *__all__]

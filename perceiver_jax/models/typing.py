"""Shape annotations that do not require jaxtyping.

`Float[Array, "B M C"]` documents a shape. The tests install jaxtyping, which
checks the annotations at run time.
"""

from typing import TYPE_CHECKING, Any

import jax

try:
  from jaxtyping import Array, Bool, Float, Int, Shaped
except ImportError:
  if not TYPE_CHECKING:
    Array = jax.Array

    class _Unchecked:
      """Stands in for jaxtyping's types: `Float[Array, "B C"]` is `Any`."""

      def __class_getitem__(cls, _: Any) -> Any:
        return Any

    Bool = Float = Int = Shaped = _Unchecked

__all__ = ["Array", "Bool", "Float", "Int", "Shaped"]

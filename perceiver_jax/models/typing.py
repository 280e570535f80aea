"""Shape annotations that do not require jaxtyping.

`Float[Array, "B M C"]` documents a shape. The tests install jaxtyping, which
checks the annotations at run time.
"""

from typing import TYPE_CHECKING, Any, Literal

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

# False: no attention is returned; True: the attention weights; "logits": the
# scaled dot products before the softmax, as the Perceiver's figures show them.
ReturnAttention = bool | Literal["logits"]

__all__ = ["Array", "Bool", "Float", "Int", "ReturnAttention", "Shaped"]

"""Counts floating point operations as both papers do.

Multiplies and adds count separately, softmax and scaling cost 3 per attention
logit, and biases, norms and activations are ignored (Perceiver, app. B; IO,
app. D). Unlike XLA's own count, the body of a scan counts once per iteration.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp

_SOFTMAX_COST = 3


def count_flops(fn: Callable[..., Any], *args: Any) -> int:
  """Counts the operations of one call of `fn`, from its shapes alone.

  Args:
    fn: A function that can be traced.
    *args: Arrays or `jax.ShapeDtypeStruct`s.
  """
  return count_jaxpr_flops(jax.make_jaxpr(fn)(*args).jaxpr)


def count_jaxpr_flops(jaxpr: Any) -> int:
  """Returns the operations of a traced function."""
  return sum(_count_equation(eqn) for eqn in jaxpr.eqns)


def _count_equation(eqn: Any) -> int:
  name = eqn.primitive.name
  if name == "dot_general":
    (contracting, _), _ = eqn.params["dimension_numbers"]
    size = math.prod(eqn.invars[0].aval.shape[d] for d in contracting)
    return 2 * size * math.prod(eqn.outvars[0].aval.shape)
  if name == "conv_general_dilated":
    return _count_convolution(eqn)
  if name.startswith("dot_product_attention_"):
    return _count_fused_attention(eqn)
  if name == "exp":  # Only softmax exponentiates in these models.
    return _SOFTMAX_COST * math.prod(eqn.outvars[0].aval.shape)
  times = eqn.params["length"] if name == "scan" else 1
  return times * sum(count_jaxpr_flops(inner) for inner in _inner_jaxprs(eqn))


def _count_convolution(eqn: Any) -> int:
  numbers = eqn.params["dimension_numbers"]
  kernel = eqn.invars[1].aval.shape
  per_output = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
  return 2 * per_output * math.prod(eqn.outvars[0].aval.shape)


def _count_fused_attention(eqn: Any) -> int:
  """Counts cuDNN's kernel by the widths that its arrays are padded to.

  The logits that its backward pass recomputes don't count.
  """
  # [B, N, H, F], [B, M, H, F] and [B, M, H, V].
  queries, keys, values = (x.aval.shape for x in eqn.invars[:3])
  logits = math.prod(queries[:3]) * keys[1]
  products = 2 * logits * (queries[-1] + values[-1])
  if "bwd" in eqn.primitive.name:
    return 2 * products
  return products + _SOFTMAX_COST * logits


def _inner_jaxprs(eqn: Any) -> list[Any]:
  """Returns jaxprs of nested calls; of a conditional, the costliest branch."""
  if eqn.primitive.name == "cond":
    return [
      max((b.jaxpr for b in eqn.params["branches"]), key=count_jaxpr_flops)
    ]
  leaves = jax.tree.leaves(
    list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
  )
  jaxprs = [getattr(p, "jaxpr", p) for p in leaves]
  return [p for p in jaxprs if hasattr(p, "eqns")]


def abstract(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
  """Returns an array known by shape and dtype only."""
  return jax.ShapeDtypeStruct(shape, dtype)

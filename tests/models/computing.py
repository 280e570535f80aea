"""Helpers that inspect values, gradients, shapes and memory of functions."""

import contextlib

import jax
import numpy as np
import plain
import pytest
from jax import numpy as jnp

from perceiver_jax.models import decoders
from perceiver_jax.models.ops import dot_product_attention, online_softmax


@contextlib.contextmanager
def in_chunks(logits, queries=2**13):
  """Limits the logits of a chunk of attention and the queries of a decoder."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(online_softmax, "CHUNK_LOGITS", logits)
    patch.setattr(dot_product_attention, "_TPU_GROUP_LOGITS", logits)
    patch.setattr(online_softmax, "TPU_FORWARD_LOGITS", logits)
    patch.setattr(online_softmax, "TPU_WHOLE_LOGITS", logits)
    patch.setattr(decoders, "_MAX_QUERIES", queries)
    patch.setattr(decoders, "_TPU_WHOLE_QUERIES", queries)
    yield


def with_gradients(fn):
  """Returns a function that returns `fn(*args)` and gradients for all `args`.

  The gradients are those of a weighted sum of the output.
  """

  def run(*args):
    def loss(*args):
      out = fn(*args)
      weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32))
      return (out * weights.reshape(out.shape)).sum(), out

    grads, out = jax.grad(loss, tuple(range(len(args))), has_aux=True)(*args)
    return out, grads

  return run


def run(fn, *args):
  """Compiles and runs `with_gradients(fn)`."""
  return plain.jit(with_gradients(fn))(*args)


def assert_close(actual, expected, tolerance=2e-5):
  """Asserts that arrays differ by at most `tolerance` of their maximum."""

  def check(a, b):
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    assert a.shape == b.shape
    assert np.isfinite(a).all()
    error = np.abs(a - b).max(initial=0)
    # An array that is exactly zero has rounding errors of numbers near 1.
    scale = max(np.abs(b).max(initial=0), 0.3)
    assert error <= tolerance * scale, f"{error} of {scale}"

  jax.tree.map(check, actual, expected)


def shapes(fn, *args):
  """Returns the shapes of all intermediate arrays, those in loops included."""
  return _shapes(jax.make_jaxpr(fn)(*args).jaxpr)


def _shapes(jaxpr):
  result = []
  for equation in jaxpr.eqns:
    result += [getattr(var.aval, "shape", ()) for var in equation.outvars]
    inner = jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
    )
    for each in inner:
      if hasattr(each, "eqns"):
        result += _shapes(getattr(each, "jaxpr", each))
  return result


def temporary_bytes(fn, *args):
  """Returns the bytes that `fn` needs besides arguments and results."""
  compiled = jax.jit(fn).lower(*args).compile()
  return compiled.memory_analysis().temp_size_in_bytes

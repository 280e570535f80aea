"""Values, gradients, array shapes and memory of a computation."""

import contextlib

import jax
import numpy as np
import plain
import pytest
from jax import numpy as jnp

from perceiver_jax.models import decoders
from perceiver_jax.models.ops import online_softmax


@contextlib.contextmanager
def in_chunks(logits, queries=2**13):
  """Limits the logits of a chunk of attention and the queries of a decoder."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(online_softmax, "CHUNK_LOGITS", logits)
    patch.setattr(decoders, "_MAX_QUERIES", queries)
    yield


def with_gradients(fn):
  """`fn(*args)` and the gradients of one scalar of it with respect to args."""

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
  """Arrays differ by less than `tolerance` of the largest number in each."""

  def check(a, b):
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    assert a.shape == b.shape
    assert np.isfinite(a).all()
    error = np.abs(a - b).max(initial=0)
    # Of what is exactly zero there is rounding of numbers about as large as 1.
    scale = max(np.abs(b).max(initial=0), 0.3)
    assert error <= tolerance * scale, f"{error} of {scale}"

  jax.tree.map(check, actual, expected)


def shapes(fn, *args):
  """Shapes of all that `fn` makes of `args`, loops and calls included."""
  return _shapes(jax.make_jaxpr(fn)(*args).jaxpr)


def _shapes(jaxpr):
  found = []
  for equation in jaxpr.eqns:
    found += [getattr(var.aval, "shape", ()) for var in equation.outvars]
    inner = jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
    )
    for each in inner:
      if hasattr(each, "eqns"):
        found += _shapes(getattr(each, "jaxpr", each))
  return found


def temporary_bytes(fn, *args):
  """Memory that the compiled `fn` needs beside arguments and results."""
  compiled = jax.jit(fn).lower(*args).compile()
  return compiled.memory_analysis().temp_size_in_bytes

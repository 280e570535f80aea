"""Definitions of parts of the models in float64 NumPy, and helpers."""

import functools

import haiku as hk
import jax
import numpy as np
from jax import numpy as jnp

# Small models run for milliseconds; optimizing them would take seconds.
jit = functools.partial(
  jax.jit,
  compiler_options={
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
  },
)


def transform(fn):
  """Returns a Haiku model without random numbers."""
  return hk.without_apply_rng(hk.transform(fn))


def normal(*shape, seed=0):
  """Returns random float32 numbers."""
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


def random_like(shapes, seed=1):
  """Returns random values for parameters, so that each of them matters.

  Initial values such as zeros would leave parts of a model without effect.
  """
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes
  )


def random_params(model, *args):
  """Returns random parameters of a Haiku model without state."""
  return random_like(jax.eval_shape(model.init, jax.random.key(0), *args))


def fourier(positions, num_bands, max_resolution):
  """Returns coordinates [..., d], their sines and their cosines."""
  positions = np.asarray(positions, np.float64)
  angles = [
    positions[..., i, None] * np.pi * np.linspace(1, resolution / 2, num_bands)
    for i, resolution in enumerate(max_resolution)
  ]
  angles = np.concatenate(angles, -1)
  return np.concatenate([positions, np.sin(angles), np.cos(angles)], -1)


def grid(*sizes):
  """Returns row-major coordinates of a grid in [-1, 1], ends included."""
  axes = [np.linspace(-1, 1, n) for n in sizes]
  return np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], -1)


class Module:
  """Layers computed from the parameters of a Haiku module by their names."""

  def __init__(self, params, name):
    self._params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    self._name = name

  def table(self, name):
    return self._params[f"{self._name}/{name}"]["embeddings"]

  def linear(self, name, x):
    leaf = self._params[f"{self._name}/{name}"]
    return np.asarray(x, np.float64) @ leaf["w"] + leaf["b"]

  def norm(self, name, x):
    leaf = self._params[f"{self._name}/{name}"]
    x = np.asarray(x, np.float64)
    x = x - x.mean(-1, keepdims=True)
    x /= np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    return x * leaf["scale"] + leaf["offset"]

  def attend(self, name, query, inputs, heads=1, mask=None):
    """Returns outputs and weights of attention; `mask` marks real queries."""
    split = lambda x: x.reshape(*x.shape[:2], heads, -1)
    q = split(self.linear(f"{name}/query", query))
    k = split(self.linear(f"{name}/key", inputs))
    v = split(self.linear(f"{name}/value", inputs))
    weights = np.einsum("bnhf,bmhf->bhnm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(weights - weights.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    if mask is not None:
      weights *= np.asarray(mask)[:, None, :, None]
    x = np.einsum("bhnm,bmhv->bnhv", weights, v)
    return self.linear(f"{name}/output", x.reshape(*x.shape[:2], -1)), weights

  def mlp(self, name, x):
    h = self.linear(f"{name}/hidden", x)
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    return self.linear(f"{name}/output", h)

  def cross_attend(self, query, latents, heads=1, mask=None, residual=False):
    """Returns outputs and weights of a decoder's cross-attend."""
    name = "cross_attend"
    queries = self.norm(f"{name}/query_norm", query)
    keys = self.norm(f"{name}/input_norm", latents)
    x, weights = self.attend(f"{name}/attention", queries, keys, heads, mask)
    x = x + np.asarray(query, np.float64) if residual else x
    x = x + self.mlp(f"{name}/mlp", self.norm(f"{name}/mlp_norm", x))
    return x, weights

"""Parts of the models by their definitions, in float64 numpy, and helpers."""

import functools

import haiku as hk
import jax
import numpy as np
from jax import numpy as jnp

# Small models run for a millisecond and compile for seconds: do not optimize.
jit = functools.partial(
  jax.jit,
  compiler_options={
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
  },
)


def transform(make):
  return hk.without_apply_rng(hk.transform(make))


def normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


def random_like(shapes, seed=1):
  """Parameters away from their special first values: each one matters."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes
  )


def random_params(model, *args):
  """Random parameters of a Haiku model without state."""
  return random_like(jax.eval_shape(model.init, jax.random.key(0), *args))


def fourier(positions, num_bands, max_resolution):
  """[.., d] coordinates to positions, all sines, all cosines."""
  positions = np.asarray(positions, np.float64)
  angles = [
    positions[..., i, None] * np.pi * np.linspace(1, resolution / 2, num_bands)
    for i, resolution in enumerate(max_resolution)
  ]
  angles = np.concatenate(angles, -1)
  return np.concatenate([positions, np.sin(angles), np.cos(angles)], -1)


def grid(*sizes):
  """Coordinates of a grid in [-1, 1], ends included, in row-major order."""
  axes = [np.linspace(-1, 1, n) for n in sizes]
  return np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], -1)


class Module:
  """Layers on our parameters, by the names they have in a module."""

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

  def cross_attend(self, query, latents, heads=1, mask=None, residual=False):
    """Outputs and weights of a decoder's; `mask`: which queries may read."""
    split = lambda x: x.reshape(*x.shape[:2], heads, -1)
    name = "cross_attend"
    keys = self.norm(f"{name}/input_norm", latents)
    normed = self.norm(f"{name}/query_norm", query)
    q = split(self.linear(f"{name}/attention/query", normed))
    k = split(self.linear(f"{name}/attention/key", keys))
    v = split(self.linear(f"{name}/attention/value", keys))
    weights = np.einsum("bnhf,bmhf->bhnm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(weights - weights.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    if mask is not None:
      weights *= np.asarray(mask)[:, None, :, None]
    x = np.einsum("bhnm,bmhv->bnhv", weights, v)
    x = self.linear(f"{name}/attention/output", x.reshape(*x.shape[:2], -1))
    x = x + np.asarray(query, np.float64) if residual else x
    h = self.linear(f"{name}/mlp/hidden", self.norm(f"{name}/mlp_norm", x))
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    return x + self.linear(f"{name}/mlp/output", h), weights

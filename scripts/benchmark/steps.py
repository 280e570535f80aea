"""Train steps of models for the benchmarks, on random inputs."""

from typing import Any

import haiku as hk
import jax
from jax import numpy as jnp

from scripts.benchmark import timing

OPTIMIZERS = ("sgd", "lamb")


def random_inputs(shapes: Any) -> Any:
  """Returns random arrays of the shapes and types of raw inputs."""
  return jax.tree.map(_random_array, shapes)


def train_step(
  model: hk.TransformedWithState,
  params: Any,
  optimizer_name: str = "sgd",
  **options: Any,
) -> tuple:
  """Returns a jitted `(carry, state, raw) -> carry` and its initial carry.

  The step computes a loss of all outputs and its gradients, and updates the
  parameters.

  Args:
    model: Called with raw inputs, `is_training` and `options`.
    params: Its parameters.
    optimizer_name: One of `OPTIMIZERS`; "sgd" is plain gradient descent.
    **options: Other arguments of the model.
  """
  if optimizer_name == "lamb":
    from perceiver_jax.training import optimizers

    optimizer = optimizers.make_optimizer(
      "lamb", lambda _: 2e-3, weight_decay=0.1, clip_norm=10.0
    )
    start, update = optimizer.init(params), optimizer.update
  else:
    start = ()
    update = lambda g, s, _: (jax.tree.map(lambda x: -1e-3 * x, g), s)

  def loss(params, state, raw):
    out, _ = model.apply(params, state, None, raw, True, **options)
    return sum(jnp.mean(x**2) for x in jax.tree.leaves(out.logits))

  def step(carry, state, raw):
    params, opt_state = carry
    grads = jax.grad(loss)(params, state, raw)
    updates, opt_state = update(grads, opt_state, params)
    return jax.tree.map(jnp.add, params, updates), opt_state

  return jax.jit(step, donate_argnums=0), (params, start)


def median_step(
  compiled: Any, carry: Any, state: Any, raw: Any, repeats: int
) -> float:
  """Returns the median seconds of a compiled step; `carry` is donated."""

  def call():
    nonlocal carry
    carry = compiled(carry, state, raw)
    return carry

  return timing.median(call, repeats)


def _random_array(leaf: jax.ShapeDtypeStruct) -> jax.Array:
  if jnp.issubdtype(leaf.dtype, jnp.integer):
    return jax.random.randint(jax.random.key(1), leaf.shape, 6, 262)
  return jax.random.uniform(jax.random.key(1), leaf.shape, leaf.dtype, -1, 1)

"""Applying layers in depth: scanned or unrolled, recomputed or saved.

The parameters of the L layers of a block lie along axis 0 of one array. A scan
over them keeps compile time flat in depth and, on CPUs, keeps XLA from
recomputing the residual chain of every earlier layer.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models.ops import online_softmax
from perceiver_jax.models.ops.execution import Execution
from perceiver_jax.models.ops.gradients import STATISTICS

# Checkpoint policies know the results of an attention's projections by these
# names. The second layer of an MLP is an "output" too, but the backward pass
# does not need its result.
PROJECTIONS = ("query", "key", "value", "output")
_STACK = "layers"


def is_stacked(module_name: str) -> bool:
  """Returns whether a module's parameters hold all layers on axis 0."""
  return _STACK in module_name.split("/")


def apply_layers(
  layer: Callable[[Any], Any],
  x: Any,
  *,
  num_layers: int,
  repeats: int,
  remat: bool,
  execution: Execution,
) -> Any:
  """Applies layers in turn, and all of them `repeats` times.

  Equal to calling `layer` for each, with parameters of its own.

  Args:
    layer: Makes a Haiku module and applies it, without randomness.
    x: Input of the first layer, an array or a tree of arrays.
    num_layers: Layers with their own parameters, stacked under "layers".
    repeats: How often all layers are applied.
    remat: Whether the backward pass recomputes whole layers under "auto".
    execution: How they are computed.
  """
  if hk.running_init():
    stack = hk.experimental.layer_stack(num_layers, name=_STACK)(layer)
    return stack(x)

  # The parameters exist already: lifting only fetches them.
  pure = hk.without_apply_rng(hk.transform(layer))
  stacked = hk.lift(pure.init, name=_STACK)(None, x)
  if not execution.scan_layers:
    apply = _recompute(pure.apply, remat, execution)
    leaves, structure = jax.tree.flatten(stacked)
    per_layer = list(zip(*map(jnp.unstack, leaves), strict=True))
    for own in per_layer * repeats:
      x = apply(structure.unflatten(own), x)
    return x

  # One loop over all repeats picks layers by index, so that the gradients of
  # the repeats are added in place.
  def pick_and_apply(stacked, i, x):
    pick = lambda w: jax.lax.dynamic_index_in_dim(w, i, keepdims=False)
    return pure.apply(jax.tree.map(pick, stacked), x)

  apply = _recompute(pick_and_apply, remat, execution)
  order = jnp.tile(jnp.arange(num_layers), repeats)
  return jax.lax.scan(lambda x, i: (apply(stacked, i, x), None), x, order)[0]


def apply_layers_with_caches(
  layer: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
  x: jax.Array,
  caches: Any,
) -> tuple[jax.Array, Any]:
  """Applies layers in turn, each with a cache of its own.

  Args:
    layer: Makes a Haiku module and applies it to `x` and a layer's cache; its
      parameters are those of `apply_layers`.
    x: Input of the first layer.
    caches: The caches of the layers, stacked along axis 0.

  Returns:
    The output of the last layer, and the caches that the layers returned.
  """
  pure = hk.without_apply_rng(hk.transform(layer))
  first = jax.tree.map(lambda cache: cache[0], caches)
  stacked = hk.lift(pure.init, name=_STACK)(None, x, first)
  return jax.lax.scan(
    lambda x, own: pure.apply(own[0], x, own[1]), x, (stacked, caches)
  )


def apply_repeatedly(
  block: Callable[..., jax.Array], x: jax.Array, repeats: int
) -> jax.Array:
  """Applies a block of shared layers `repeats` times."""
  if hk.running_init():  # One random key for each call, as without a loop.
    for _ in range(repeats):
      x = block(x)
    return x
  return block(x, repeats=repeats)


def apply_stages(
  apply: Callable[[jax.Array, Any], jax.Array],
  stages: Sequence[Any],
  x: jax.Array,
  *,
  scan: bool,
) -> jax.Array:
  """Returns `x` after `x = apply(x, stage)` for each stage in turn.

  Equal stages in a row share weights. A scan over them adds the gradients of
  each repetition in place, instead of holding them all until the end.

  Args:
    apply: Applies a stage.
    stages: Stages that are equal where their modules are the same.
    x: Input of the first stage.
    scan: Whether equal stages in a row may be one loop.
  """
  for stage, run in itertools.groupby(stages):
    count = len(list(run))
    if count == 1 or not scan or hk.running_init():
      for _ in range(count):
        x = apply(x, stage)
    else:
      body = lambda x, _, stage=stage: (apply(x, stage), None)
      x, _ = hk.scan(body, x, None, count)
  return x


def _recompute(layer: Callable, remat: bool, execution: Execution) -> Callable:
  """Returns the layer with a checkpoint policy for its backward pass."""
  choice = execution.remat
  if choice == "auto" and remat:
    choice = "full"
  elif choice == "auto":
    choice = "attention" if execution.target == "tpu" else "projections"
  if choice == "none" and not execution.scan_layers:
    return layer
  save = jax.checkpoint_policies.save_only_these_names
  policies = {
    "none": _save_all_but_weights,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "projections": save(*PROJECTIONS, *STATISTICS),
    "attention": save(*PROJECTIONS[:3], *online_softmax.RESULTS, *STATISTICS),
    "full": None,
  }
  return jax.checkpoint(layer, policy=policies[choice])


def _save_all_but_weights(primitive: Any, *_: Any, **__: Any) -> bool:
  """Saves all results but slices, since a layer's weights are a slice."""
  return primitive not in (jax.lax.dynamic_slice_p, jax.lax.squeeze_p)

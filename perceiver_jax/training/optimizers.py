"""Optimizers and learning rate schedules of both papers, built from optax.

A config's `optimizer` section holds the arguments of `make_optimizer` and
`make_schedule`. The length of the run is computed from the final config.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from perceiver_jax import checks
from perceiver_jax.errors import UserError
from perceiver_jax.models.ops import depth
from perceiver_jax.training import optimizer_sharding

OPTIMIZERS = ("lamb", "adamw", "muon")
SCHEDULES = ("constant", "constant_cosine", "cosine", "step")

_NOT_NEGATIVE = (
  "learning_rate",
  "learning_rate_batch_size",
  "decay_factor",
  "weight_decay",
  "clip_norm",
  "eps",
)
_NOT_DECAYED = ("b", "bias", "scale", "offset")
# About the root mean square of Adam's updates (arXiv 2502.16982, section 2.2).
_ADAM_RMS = 0.2


def make_schedule(
  schedule: str,
  learning_rate: float,
  num_steps: int,
  *,
  warmup_steps: int = 0,
  constant_fraction: float = 0.5,
  boundaries: Sequence[float] = (),
  decay_factor: float = 0.1,
) -> optax.Schedule:
  """Returns the learning rate schedule.

  Args:
    schedule: "constant"; "constant_cosine", constant for `constant_fraction` of
      the run and then a cosine decay to zero (IO, app. A.1); "cosine", a
      cosine decay from the start; "step", multiplied by `decay_factor` at each
      boundary (Perceiver, section 4.1).
    learning_rate: peak learning rate.
    num_steps: length of the run.
    warmup_steps: length of the linear warmup from zero.
    constant_fraction: used by "constant_cosine".
    boundaries: fractions of the run, used by "step", for example
      (84/120, 102/120, 114/120).
    decay_factor: used by "step".

  Raises:
    UserError: the schedule is unknown or a number is out of range.
  """
  checks.check_leaf_choice("optimizer.schedule", schedule, SCHEDULES)
  if not 0 <= warmup_steps < max(num_steps, 1):
    raise UserError(
      f"config.optimizer.warmup_steps is {warmup_steps}; give 0 or more, and"
      f" less than the run's {num_steps} steps"
    )
  checks.check_fractions("optimizer.constant_fraction", constant_fraction)
  checks.check_fractions("optimizer.boundaries", *boundaries)
  remaining = num_steps - warmup_steps
  if schedule == "constant_cosine":
    flat = round(constant_fraction * remaining)
    main = optax.join_schedules(
      [
        optax.constant_schedule(learning_rate),
        optax.cosine_decay_schedule(learning_rate, max(remaining - flat, 1)),
      ],
      [flat],
    )
  elif schedule == "cosine":
    main = optax.cosine_decay_schedule(learning_rate, remaining)
  elif schedule == "step":
    factors: dict[int, float] = {}
    for boundary in boundaries:
      # In a short run several boundaries may round to the same step.
      at = round(boundary * num_steps) - warmup_steps
      factors[at] = factors.get(at, 1.0) * decay_factor
    main = optax.piecewise_constant_schedule(learning_rate, factors)
  else:
    main = optax.constant_schedule(learning_rate)
  if not warmup_steps:
    return main
  warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  return optax.join_schedules([warmup, main], [warmup_steps])


def make_optimizer(
  name: str,
  schedule: optax.Schedule,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-6,
  weight_decay: float = 0.0,
  clip_norm: float = 0.0,
  shard_over: Mesh | None = None,
) -> optax.GradientTransformation:
  """Returns LAMB, AdamW or Muon without weight decay of biases and norms.

  Args:
    name: "lamb"; "adamw"; or "muon", which updates the weights of linear layers
      and convolutions with orthogonalized momentum (Jordan et al., 2024), and
      all other parameters with Adam with Nesterov's momentum. Neither paper
      uses it. Its updates have the RMS of Adam's, so that it takes similar
      learning rates (Liu et al., arXiv 2502.16982).
    schedule: learning rate schedule.
    b1: decay rate of the first moment (of "muon", in Adam).
    b2: decay rate of the second moment (of "muon", in Adam).
    eps: added to the square root of the second moment.
    weight_decay: decoupled weight decay; of "muon", only of the weights that
      Adam does not update.
    clip_norm: maximal global norm of the gradient; 0 for no clipping.
    shard_over: devices over which the state is sharded; None for no sharding.
      See `training.optimizer_sharding`.

  Raises:
    UserError: the name is unknown, or the optimizer's state can't be sharded.
  """
  checks.check_leaf_choice("optimizer.name", name, OPTIMIZERS)
  parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
  if name == "muon":
    if shard_over is not None:
      raise UserError(
        "config.shard_optimizer_state needs config.optimizer.name=lamb or"
        " adamw: Muon orthogonalizes whole matrices"
      )
    muon = optax.contrib.muon(
      schedule,
      eps=eps,
      weight_decay=weight_decay,
      adam_b1=b1,
      adam_b2=b2,
      muon_weight_dimension_numbers=_matrices,
      consistent_rms=_ADAM_RMS,
    )
    return optax.chain(*parts, muon)
  adam = optax.scale_by_adam(b1, b2, eps)
  if shard_over is not None:
    adam = optimizer_sharding.shard_update(adam, shard_over)
  parts += [adam, optax.add_decayed_weights(weight_decay, decay_mask)]
  parts += [_trust_ratio_by_layer()] if name == "lamb" else []
  return optax.chain(*parts, optax.scale_by_learning_rate(schedule))


def from_config(
  config: Mapping[str, Any],
  num_steps: int,
  batch_size: int,
  shard_over: Mesh | None = None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Builds the optimizer and schedule of a config's `optimizer` section.

  Args:
    config: arguments of `make_optimizer` and `make_schedule`, and
      `learning_rate_batch_size`: the learning rate is multiplied by the batch
      size over this number; 0 for no scaling.
    num_steps: length of the run.
    batch_size: global batch size of the run.
    shard_over: see `make_optimizer`.

  Raises:
    UserError: a number is out of range, or the optimizer or the schedule can't
      be made.
  """
  config = dict(config)
  for leaf in _NOT_NEGATIVE:
    checks.check_not_negative(f"optimizer.{leaf}", config.get(leaf, 0))
  for leaf in ("b1", "b2"):
    rate = config.get(leaf, 0)
    checks.check_leaf(
      f"optimizer.{leaf}", rate, 0 <= rate < 1, "0 or more, and less than 1"
    )
  name = config.pop("name")
  reference = config.pop("learning_rate_batch_size", 0)
  rate = config.pop("learning_rate") * (
    batch_size / reference if reference else 1.0
  )
  schedule_keys = (
    "warmup_steps",
    "constant_fraction",
    "boundaries",
    "decay_factor",
  )
  shape = {k: config.pop(k) for k in schedule_keys if k in config}
  schedule = make_schedule(config.pop("schedule"), rate, num_steps, **shape)
  optimizer = make_optimizer(name, schedule, shard_over=shard_over, **config)
  return optimizer, schedule


def decay_mask(params: Any) -> Any:
  """Returns whether each parameter decays; biases and norms do not."""
  return _map_named(lambda _, name, __: name not in _NOT_DECAYED, params)


def _matrices(params: Any) -> Any:
  """Returns the axes by which Muon takes each weight as a matrix.

  Those of other parameters are None. Each layer of a scanned stack has a matrix
  of its own.
  """

  def axes(module, name, param):
    if name != "w":
      return None
    inputs = range(depth.is_stacked(module), param.ndim - 1)
    return optax.contrib.MuonDimensionNumbers(tuple(inputs), param.ndim - 1)

  return _map_named(axes, params)


def _trust_ratio_by_layer() -> optax.GradientTransformation:
  """Applies LAMB's trust ratio to each layer of a scanned stack separately.

  Layers that are scanned keep their parameters in one array. One trust ratio
  for that array would make scanned layers train differently from unrolled ones.
  """
  trust = optax.scale_by_trust_ratio()

  def update(updates, state, params):
    def scale(module, _, update, param):
      one = lambda u, p: trust.update(u, state, p)[0]
      stacked = depth.is_stacked(module)
      return (jax.vmap(one) if stacked else one)(update, param)

    return _map_named(scale, updates, params), state

  return optax.GradientTransformation(trust.init, update)


def _map_named(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
  """Maps `fn(module name, parameter name, array, ...)` over parameters."""
  return jax.tree_util.tree_map_with_path(
    lambda path, *leaves: fn(path[0].key, path[-1].key, *leaves), tree, *rest
  )

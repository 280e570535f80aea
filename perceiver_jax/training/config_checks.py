"""Checks the leaves of a config and computes the length of its run."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from perceiver_jax.checks import check_leaf, check_not_negative
from perceiver_jax.errors import UserError

_MINIMUM = {
  "seed": 0,
  "eval_every_steps": 0,
  "eval_every_epochs": 0,
  "max_seconds": 0,
  "data_timeout_seconds": 0,
  "log.every_steps": 1,
  "log.profile_from_step": 0,
  "log.profile_steps": 1,
  "checkpoint.every_steps": 0,
  "checkpoint.every_epochs": 0,
  "checkpoint.keep_latest": 1,
  "checkpoint.keep_best": 0,
}
_MAY_BE_INFINITE = ("max_seconds", "data_timeout_seconds")
# Leaves that have a default without the config.
_OPTIONAL = ("execution", "init_from", "optimizer", "shard_optimizer_state")
_REQUIRED = (
  "optimizer.name", "optimizer.learning_rate", "optimizer.schedule",
)  # fmt: skip


def check_complete(
  config: ml_collections.ConfigDict, run: ml_collections.ConfigDict
) -> None:
  """Checks that a config has the leaves that every run needs.

  Args:
    config: config of the run.
    run: `configs.base.run()`.

  Raises:
    UserError: a leaf is missing.
  """
  given = {name for name, _ in _leaves(config)}
  for name, _ in _leaves(run):
    is_required = name in _REQUIRED or name.split(".")[0] not in _OPTIONAL
    if is_required and name not in given:
      raise UserError(
        f"the config has no leaf {name!r}; start from configs.base.run()"
      )


def check_numbers(config: ml_collections.ConfigDict) -> None:
  """Checks numbers that would otherwise cause errors during the run.

  Raises:
    UserError: a number is out of range; the message names the leaf.
  """
  leaves = dict(_leaves(config))
  for name, minimum in _MINIMUM.items():
    value = leaves[name]
    check_leaf(name, value, value >= minimum, f"{minimum} or more")
  saving = config.checkpoint
  if not saving.every_steps and not saving.every_epochs:
    raise UserError(
      "config.checkpoint.every_steps is 0 and config.checkpoint.every_epochs is"
      " 0; set one of them, or an interrupted run would lose all its progress"
    )
  check_leaf(
    "ema_decay",
    config.ema_decay,
    0 <= config.ema_decay < 1,
    "0 for no averaging, or a number below 1",
  )
  smoothing = leaves.get("label_smoothing", 0)
  check_leaf(
    "label_smoothing", smoothing, 0 <= smoothing <= 1, "a number from 0 to 1"
  )
  for name, value in leaves.items():
    if name.startswith(("data.affine.", "mixing.")):
      check_not_negative(name, value)
    for number in value if isinstance(value, tuple) else (value,):
      if isinstance(number, float) and name not in _MAY_BE_INFINITE:
        check_leaf(name, value, math.isfinite(number), "a finite number")
      if isinstance(number, int):
        is_64_bit = -(2**63) <= number < 2**63
        check_leaf(name, value, is_64_bit, "a 64-bit number")
      if isinstance(number, int) and name.startswith("model."):
        check_leaf(name, value, number >= 0, "0 or more")


def num_steps(config: ml_collections.ConfigDict, examples: int) -> int:
  """Returns the length of a run, from `num_steps` or `num_epochs`.

  Args:
    config: config of the run; one of `num_steps` and `num_epochs` is 0.
    examples: number of examples in an epoch.

  Raises:
    UserError: neither or both are given, or one is negative or not finite.
  """
  steps, epochs = config.num_steps, config.num_epochs
  given = (steps > 0) + (epochs > 0)
  if given != 1 or min(steps, epochs) < 0 or not math.isfinite(epochs):
    raise UserError(
      f"config.num_steps is {steps} and config.num_epochs is {epochs}; give"
      " one of them and set the other to 0"
    )
  return steps or max(1, math.ceil(epochs * examples / config.batch_size))


def _leaves(
  config: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, Any]]:
  for name, value in config.items():
    if hasattr(value, "items"):
      yield from _leaves(value, f"{path}{name}.")
    else:
      yield path + name, value

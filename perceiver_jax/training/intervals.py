"""Decides at which steps a run logs, evaluates and saves."""

from typing import NamedTuple

import ml_collections


class Due(NamedTuple):
  """The actions that are due after a step."""

  log: bool
  evaluate: bool
  save: bool


def due(
  config: ml_collections.ConfigDict,
  step: int,
  num_steps: int,
  steps_per_epoch: float,
) -> Due:
  """Returns the actions that are due after a step; all after the last step.

  Args:
    config: config of the run, with its intervals in steps and epochs.
    step: number of steps taken.
    num_steps: number of steps in the whole run.
    steps_per_epoch: examples of an epoch divided by the batch size.
  """

  def ends(steps, epochs=0.0):
    # Counting whole intervals keeps those of fractional steps from drifting.
    whole = lambda at: int(at / (epochs * steps_per_epoch)) if epochs else 0
    by_steps = bool(steps) and step % steps == 0
    return step == num_steps or by_steps or whole(step) > whole(step - 1)

  return Due(
    log=ends(config.log.every_steps),
    evaluate=ends(config.eval_every_steps, config.eval_every_epochs),
    save=ends(config.checkpoint.every_steps, config.checkpoint.every_epochs),
  )

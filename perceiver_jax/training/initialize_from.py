"""Initializes a run from given weights."""

from pathlib import Path
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp
from absl import logging

from perceiver_jax import weights as weights_lib
from perceiver_jax.training import workdir
from perceiver_jax.training.step import TrainState
from perceiver_jax.weights import initialize, model


def load(
  config: ml_collections.ConfigDict, folder: Path
) -> weights_lib.Weights | None:
  """Loads the weights named by `config.init_from`.

  Returns:
    The weights; None if the leaf is empty or the run resumes a checkpoint.

  Raises:
    UserError: the weights can't be read, or are not finite.
  """
  # A run that was killed early may leave a folder without checkpoints.
  resumes = ocp.utils.checkpoint_steps(folder / workdir.CHECKPOINTS)
  if not config.get("init_from", "") or resumes:
    return None
  weights = weights_lib.load(config.init_from)
  model.check_finite(weights, config.init_from)
  return weights


def initialize_state(
  state: TrainState, weights: weights_lib.Weights, spec: Any
) -> tuple[TrainState, initialize.Report]:
  """Returns an initial state with parameters from `weights`.

  Args:
    state: randomly initialized state, whose parameters are replicated.
    weights: weights to initialize from.
    spec: `config.model`.

  Returns:
    The state with the same shardings, and a report on each array.
  """
  sharding = jax.tree.leaves(state.params)[0].sharding
  params, report = initialize.initialize_from(
    weights, _host(state.params), spec
  )
  if _has_self_attends(report.initialized) and not _has_self_attends(
    report.loaded
  ):
    logging.warning(
      "no self-attend of init_from has the shapes of the model's, so training"
      " starts nearly from scratch; give weights of a model of the same sizes"
    )
  net_state = _host(state.net_state)
  same = jax.tree.map(lambda x: x.shape, net_state) == jax.tree.map(
    lambda x: x.shape, weights.state
  )
  place = lambda tree: jax.device_put(tree, sharding)
  return state._replace(
    params=place(params),
    net_state=place(weights.state if same else net_state),
    # Copy the parameters, because the step donates both trees.
    ema_params=place(params) if state.ema_params else (),
  ), report


def _has_self_attends(names: list[str]) -> bool:
  return any("/self_attend/" in name for name in names)


def _host(tree: Any) -> Any:
  return jax.tree.map(lambda x: jax.device_get(x.addressable_data(0)), tree)

"""predict command FILE ...: the next command in StarCraft II."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from experiments.predictions import models, outputs
from perceiver_jax import files
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.starcraft import features
from perceiver_jax.data.starcraft import observations as observations_lib
from perceiver_jax.errors import UserError
from perceiver_jax.tasks.starcraft import StarCraft
from perceiver_jax.training import restore


class CommandModel(NamedTuple):
  """A model that predicts commands.

  Attributes:
    task: The task, which prepares observations as in evaluation.
    apply: Returns the outputs for a batch, on the host.
  """

  task: StarCraft
  apply: Callable[[dict[str, np.ndarray]], Any]


def run(arguments: Sequence[str]) -> None:
  """Prints the predicted action, the entity to select and the target.

  Args:
    arguments: Paths of observations, `.npz`.

  Raises:
    UserError: No file or no run is given, or a file can't be read.
  """
  paths = [files.as_path(p).expanduser() for p in arguments]
  if not paths:
    raise UserError(
      "no observation is given; name .npz files after the flags"
      " (docs/starcraft.md describes their arrays)"
    )
  model = load()
  observations = [read(path, model.task) for path in paths]
  batches = [
    _batch(path, each, model.task)
    for path, each in zip(paths, observations, strict=True)
  ]
  for path, observation, batch in zip(
    paths, observations, batches, strict=True
  ):
    print(path)
    predictions = probabilities(model.apply(batch), observation, model.task)
    for part, shares in predictions.items():
      print(f" {part}:")
      outputs.print_top_classes(np.array([*shares.values()]), [*shares])


def load(**options: Any) -> CommandModel:
  """Loads the model of the run in --workdir.

  Args:
    **options: Options of the task's `forward`.

  Raises:
    UserError: No run is given, or it does not predict commands.
  """
  if not models.uses_run():
    raise UserError(
      "command needs the names of the actions, which a run has: give --workdir"
      " of a run of configs/starcraft.py, and no --weights"
    )
  config, task, folder = models.saved_run(StarCraft, "predict commands")
  restored = restore.restore(config, task, folder, flags.FLAGS.checkpoint)
  return CommandModel(task, restore.predictor(restored, **options))


def batch_of(observation: Example, task: StarCraft) -> dict[str, np.ndarray]:
  """Returns a batch of one observation."""
  example = task.preprocess(observation, None)
  return {name: value[None] for name, value in example.items()}


def probabilities(
  model_outputs: Any, observation: Example, task: StarCraft
) -> dict[str, dict[str, float]]:
  """Returns the probability of each value, by part of the command.

  Actions are named as in the run, entities by number, type and place.
  """
  entities = _entity_names(task, observation)
  names = {
    "action": task.class_names,
    "selected": entities,
    "target": entities,
  }
  shares = jax.device_get(task.probabilities(model_outputs.logits))
  return {
    part: dict(zip(names[part], shares[part][0].tolist(), strict=False))
    for part in features.TARGETS
  }


def read(path: Path, task: StarCraft) -> Example:
  """Reads an observation.

  Raises:
    UserError: The file can't be read, or has no entity.
  """
  num_unit_types = len(task.metadata()["unit_type_names"])
  observation = observations_lib.read(path, num_unit_types)
  if not features.num_entities(observation):
    raise UserError(f"{str(path)!r} has no entity; nothing can be commanded")
  return observation


def _batch(
  path: Path, observation: Example, task: StarCraft
) -> dict[str, np.ndarray]:
  """Returns a batch of the observation of a file.

  Raises:
    UserError: It has too many entities.
  """
  try:
    return batch_of(observation, task)
  except UserError as error:
    raise UserError(f"{str(path)!r}: {error}") from error


def _entity_names(task: StarCraft, observation: Example) -> list[str]:
  """Describes each entity by its number, type, alliance and position."""
  types = task.metadata()["unit_type_names"]
  rows = zip(
    *(np.asarray(observation[name]) for name in features.REQUIRED), strict=True
  )
  names = []
  for number, (kind, alliance, x, y) in enumerate(rows):
    name = types[max(int(kind), 0)]
    owner = features.ALLIANCES[max(int(alliance), 0)]
    names.append(f"{number}: {name} ({owner}) at {x:.0f}, {y:.0f}")
  return names

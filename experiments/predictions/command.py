"""predict command FILE ...: the next command in StarCraft II."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags

from experiments.predictions import models, outputs
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.starcraft import features
from perceiver_jax.data.starcraft import observations as observations_lib
from perceiver_jax.errors import UserError
from perceiver_jax.tasks.starcraft import StarCraft
from perceiver_jax.training import restore


def run(arguments: Sequence[str]) -> None:
  """Prints the predicted action, the entity to select and the target.

  Args:
    arguments: Paths of observations, `.npz`.

  Raises:
    UserError: No file or no run is given, or a file can't be read.
  """
  paths = [Path(p).expanduser() for p in arguments]
  if not paths:
    raise UserError(
      "no observation is given; name .npz files after the flags"
      " (docs/starcraft.md describes their arrays)"
    )
  if not models.uses_run():
    raise UserError(
      "command needs the names of the actions, which a run has: give --workdir"
      " of a run of configs/starcraft.py, and no --weights"
    )
  config, task, folder = models.saved_run(StarCraft, "predict commands")
  observations = [_read(path, task) for path in paths]
  examples = [task.preprocess(each, None) for each in observations]
  restored = restore.restore(config, task, folder, flags.FLAGS.checkpoint)
  apply = restore.predictor(restored)
  for path, observation, example in zip(
    paths, observations, examples, strict=True
  ):
    batch = {name: value[None] for name, value in example.items()}
    logits = apply(batch).logits
    print(path)
    _print(task, observation, jax.device_get(task.probabilities(logits)))


def _read(path: Path, task: StarCraft) -> Example:
  """Reads an observation.

  Raises:
    UserError: The file can't be read, or has no entity.
  """
  num_unit_types = len(task.metadata()["unit_type_names"])
  observation = observations_lib.read(path, num_unit_types)
  if not features.num_entities(observation):
    raise UserError(f"{str(path)!r} has no entity; nothing can be commanded")
  return observation


def _print(
  task: StarCraft,
  observation: Example,
  probabilities: dict[str, np.ndarray],
) -> None:
  """Prints the most likely values of each part of the command."""
  entities = _entity_names(task, observation)
  names = {
    "action": task.class_names,
    "selected": entities,
    "target": entities,
  }
  for part in features.TARGETS:
    print(f" {part}:")
    outputs.print_top_classes(
      probabilities[part][0, : len(names[part])], names[part]
    )


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

"""The model to export: a run's or that of any weights, with its task."""

from collections.abc import Sequence
from typing import NamedTuple

import ml_collections
from absl import flags

from experiments import evaluate_weights, launch
from perceiver_jax import files
from perceiver_jax import weights as weights_lib
from perceiver_jax.errors import UserError
from perceiver_jax.models.ops.execution import Execution
from perceiver_jax.tasks.base import Task
from perceiver_jax.training import restore


class Subject(NamedTuple):
  """A trained model with the task that prepares its inputs.

  Attributes:
    config: Config of the run, or that given for the weights.
    task: The task, which computes the model as on a CPU.
    weights: The model and its weights.
    class_names: Names of the classes; () if unknown.
  """

  config: ml_collections.ConfigDict
  task: Task
  weights: weights_lib.Weights
  class_names: Sequence[str]


def load(weights: str, checkpoint: str) -> Subject:
  """Loads the model of `weights`, or of the run in --workdir.

  Args:
    weights: Path of weights; "" for the run.
    checkpoint: Checkpoint of the run: "latest", "best" or a step.

  Raises:
    UserError: None or both are given, or they can't be loaded.
  """
  if bool(weights) == bool(flags.FLAGS.workdir):
    raise UserError(
      "give either --workdir, the folder of a run, or --weights and the"
      " --config of these weights"
    )
  class_names: Sequence[str] = ()
  if weights:
    config, task, restored = evaluate_weights.load_without_data(
      files.as_path(weights).expanduser(), launch.config()
    )
  else:
    config, task, folder = launch.saved_run()
    restored = restore.restore(config, task, folder, checkpoint)
    class_names = task.metadata().get("class_names", ())
  # The implementations for CPUs run on every platform.
  task.execution = Execution(platform="cpu")
  params, state = restore.local_params(restored.state)
  spec = config.model.to_dict()
  loaded = weights_lib.Weights(spec, params, state)
  return Subject(config, task, loaded, class_names)

"""predict classify-points FILE ...: the most likely classes of objects."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from configs import modelnet40
from experiments.predictions import models, outputs
from perceiver_jax import files as file_opening
from perceiver_jax import weights as weights_lib
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.points import files
from perceiver_jax.errors import UserError
from perceiver_jax.tasks.point_cloud_classification import (
  PointCloudClassification,
)
from perceiver_jax.training import restore
from perceiver_jax.viz import point_clouds


class PointModel(NamedTuple):
  """A classifier of point clouds.

  Attributes:
    task: the task, which prepares objects as in evaluation.
    apply: returns the outputs for a batch, with attention logits, on the host.
  """

  task: PointCloudClassification
  apply: Callable[[dict[str, np.ndarray]], Any]


def run(arguments: Sequence[str]) -> None:
  """Prints the classes of objects and saves images of their points.

  Args:
    arguments: Paths of meshes or of point clouds.

  Raises:
    UserError: No file or no model is given, or one can't be read.
  """
  paths = [file_opening.as_path(p).expanduser() for p in arguments]
  if not paths:
    raise UserError(
      "no object is given; name files of meshes or points after the flags"
    )
  model = load()
  # All files are read first, so that an unreadable one stops the command
  # before any output.
  examples = [model.task.preprocess(files.read(path), None) for path in paths]
  folder = outputs.output_folder()
  for path, example in zip(paths, examples, strict=True):
    probabilities, samples = predict(model, example)
    print(path)
    outputs.print_top_classes(probabilities, model.task.class_names)
    sheet = point_clouds.contact_sheet(samples)
    file = outputs.save_png(folder, f"{path.stem}-attention.png", sheet)
    print(f"  {file}")


def predict(
  model: PointModel, example: Example
) -> tuple[np.ndarray, list[point_clouds.CloudSample]]:
  """Returns the probabilities of the classes, and the cloud to draw."""
  batch = {name: value[None] for name, value in example.items()}
  model_outputs = model.apply(batch)
  logits = np.asarray(model_outputs.logits[0], np.float32)
  samples = model.task.samples(model_outputs, batch)
  return np.asarray(jax.nn.softmax(logits)), samples


def load(loaded: weights_lib.Weights | None = None) -> PointModel:
  """Loads the classifier of --weights or of the run in --workdir.

  Args:
    loaded: The weights of --weights, if they are loaded already.

  Raises:
    UserError: No model is given, or it does not classify point clouds.
  """
  if models.uses_run():
    config, task, folder = models.saved_run(
      PointCloudClassification, "classify point clouds"
    )
    task = outputs.rename_classes(config, task)
    restored = restore.restore(config, task, folder, flags.FLAGS.checkpoint)
    predict = restore.predictor(restored, return_attention="logits")
    return PointModel(task, predict)
  if not flags.FLAGS.weights:
    raise UserError(
      "no model is given: --workdir takes a run of configs/modelnet40.py,"
      " --weights the weights of one"
    )
  weights = models.load_weights(
    ["average_and_project", "classification", "pointnet"], loaded=loaded
  )
  if weights.spec["adapter"].get("kind") != "points":
    raise UserError(
      "these weights are of a model that does not take point clouds; give those"
      " of a run of configs/modelnet40.py"
    )
  config = modelnet40.get_config()
  config.model = weights.spec
  config.data.num_points = flags.FLAGS.num_points
  names = outputs.class_names(weights.spec["num_classes"])
  task = PointCloudClassification(config, {"class_names": names})
  model = models.jit_apply(weights, return_attention="logits")
  return PointModel(
    task,
    lambda batch: jax.device_get(
      model(batch["points"], input_mask=batch["point_mask"])
    ),
  )

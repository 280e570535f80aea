"""Tasks by name."""

import importlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from perceiver_jax.errors import UserError
from perceiver_jax.tasks import (
  audioset,
  autoregressive,
  feature_classification,
  glue,
  image_classification,
  kinetics,
  masked_autoencoding,
  masked_lm,
  multilabel_image_classification,
  optical_flow,
  point_cloud_classification,
  starcraft,
)
from perceiver_jax.tasks.base import Task

TASKS: dict[str, type[Task]] = {
  "image_classification": image_classification.ImageClassification,
  "multilabel_image_classification": (
    multilabel_image_classification.MultilabelImageClassification
  ),
  "audioset": audioset.AudioSet,
  "autoregressive": autoregressive.Autoregressive,
  "feature_classification": feature_classification.FeatureClassification,
  "glue": glue.Glue,
  "kinetics": kinetics.Kinetics,
  "masked_autoencoding": masked_autoencoding.MaskedAutoencoding,
  "masked_lm": masked_lm.MaskedLanguageModel,
  "optical_flow": optical_flow.OpticalFlow,
  "point_cloud_classification": (
    point_cloud_classification.PointCloudClassification
  ),
  "starcraft": starcraft.StarCraft,
}


def complete_config(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """Returns a config with the leaves that its task derives from the data.

  Call it before `make_task` with a config from the command line. That of a run
  is stored complete.

  Args:
    config: Config of the run; see `make_task`. It is not changed.

  Raises:
    UserError: There is no such task, or its data can't be opened.
  """
  return task_class(str(config.task)).complete_config(config)


def make_task(
  config: ml_collections.ConfigDict, metadata: Mapping[str, Any] | None = None
) -> Task:
  """Makes the task of a config.

  Args:
    config: Config of the run; its `task` is a key of `TASKS`, or a class
      as "package.module:Class".
    metadata: Stored result of `Task.metadata()`; if None, the data is read.

  Raises:
    UserError: There is no such task, or the config does not match it.
  """
  return task_class(str(config.task))(config, metadata)


def task_class(name: str) -> type[Task]:
  """Returns the class of a task.

  Args:
    name: A key of `TASKS`, or a class as "package.module:Class".

  Raises:
    UserError: There is no such task.
  """
  if name in TASKS:
    return TASKS[name]
  module, colon, attribute = name.partition(":")
  if not colon:
    raise UserError(
      f"config.task is {name!r}; choose one of {', '.join(TASKS)}, or give a"
      " class of your own as package.module:Class"
    )
  try:
    task_class = getattr(importlib.import_module(module), attribute)
  except (ImportError, AttributeError, ValueError) as error:
    raise UserError(
      f"config.task is {name!r}, which cannot be imported: {error}; put its"
      " folder on PYTHONPATH"
    ) from error
  if not (isinstance(task_class, type) and issubclass(task_class, Task)):
    raise UserError(
      f"config.task is {name!r}, which is not a subclass of"
      " perceiver_jax.tasks.base.Task"
    )
  return task_class

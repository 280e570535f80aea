"""The tasks by name."""

from collections.abc import (
  Callable,
  Mapping,
)
from typing import Any

import ml_collections

from perceiver_jax.errors import UserError
from perceiver_jax.tasks import (
  audioset,
  glue,
  image_classification,
  kinetics,
  masked_lm,
  optical_flow,
)
from perceiver_jax.tasks.base import Task

TASKS: dict[str, Callable[..., Task]] = {
  "image_classification": image_classification.ImageClassification,
  "audioset": audioset.AudioSet,
  "glue": glue.Glue,
  "kinetics": kinetics.Kinetics,
  "masked_lm": masked_lm.MaskedLanguageModel,
  "optical_flow": optical_flow.OpticalFlow,
}


def make_task(
  config: ml_collections.ConfigDict, metadata: Mapping[str, Any] | None = None
) -> Task:
  """Makes the task a config names.

  Args:
    config: of the run.
    metadata: `Task.metadata()` as the run stored it; None reads the data.

  Raises:
    UserError: there is no such task, or the config does not fit it.
  """
  if config.task not in TASKS:
    raise UserError(
      f"config.task is {config.task!r}; choose one of {', '.join(TASKS)}"
    )
  return TASKS[config.task](config, metadata)

"""predict classify-text TEXT ...: predictions of a GLUE run."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import flags

from experiments.predictions import models, outputs
from perceiver_jax.data.core.source import Batch
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import glue
from perceiver_jax.training import restore


class TextModel(NamedTuple):
  """A model of the tasks of GLUE.

  Attributes:
    task: The task, which has those of GLUE and prepares texts.
    apply: Returns the outputs for a batch, on the host.
  """

  task: glue.Glue
  apply: Callable[[Batch], Any]


def run(arguments: Sequence[str]) -> None:
  """Prints the prediction for each text, or for each pair of texts.

  Args:
    arguments: Texts; for tasks on pairs, the texts of each pair in turn.

  Raises:
    UserError: No text is given, the number of texts is odd for a task on
      pairs, or there is no such run.
  """
  if not arguments:
    raise UserError("no text is given; put each in quotes, after the flags")
  model = load()
  task = model.task
  name = choose_task(task)
  groups = _groups(arguments, len(task.tasks[name].texts))
  logits = model.apply(task.texts.batch_of(name, groups)).logits
  classes = task.tasks[name].classes
  for texts, row in zip(groups, logits, strict=True):
    print(" | ".join(texts))
    if classes:
      outputs.print_top_classes(task.texts.probabilities(name, row), classes)
    else:
      print(f"  score {task.texts.answer(name, row)[0]}")


def load(**options: Any) -> TextModel:
  """Loads the model of the run in --workdir.

  Args:
    **options: Options of the task's `forward`.

  Raises:
    UserError: There is no such run, or it does not classify texts.
  """
  config, task, folder = models.saved_run(glue.Glue, "classify texts")
  restored = restore.restore(config, task, folder, flags.FLAGS.checkpoint)
  return TextModel(task, restore.predictor(restored, **options))


def choose_task(task: glue.Glue) -> str:
  """Returns the name in --task, by default the only task of the run.

  Raises:
    UserError: The run has no such task, or several and --task is missing.
  """
  name, tasks = flags.FLAGS.task, list(task.tasks)
  name = name or (tasks[0] if len(tasks) == 1 else "")
  if name not in tasks:
    raise UserError(
      f"--task is {name!r}; choose one of this run: {', '.join(tasks)}"
    )
  return name


def _groups(arguments: Sequence[str], size: int) -> Sequence[tuple[str, ...]]:
  """Groups the arguments to single texts (size 1) or pairs (size 2)."""
  if len(arguments) % size:
    raise UserError(
      f"{len(arguments)} texts are given, but the task is about pairs; give"
      " two texts for each pair, one after the other"
    )
  starts = range(0, len(arguments), size)
  return [tuple(arguments[i : i + size]) for i in starts]

"""predict classify-text TEXT ...: what a GLUE run says of texts."""

from collections.abc import Sequence

from absl import flags

from experiments import launch
from perceiver_jax.errors import UserError


def run(arguments: Sequence[str]) -> None:
  """Prints the answer to each text, or to each two of a task about pairs.

  Args:
    arguments: the texts.

  Raises:
    UserError: there is no text, one is left over, or no such run.
  """
  if not arguments:
    raise UserError("no text is given; put each in quotes, after the flags")
  # Imported late: --help should not wait for JAX.
  from experiments.predictions import classify
  from perceiver_jax.tasks import glue
  from perceiver_jax.training import restore

  config, task, folder = launch.saved_run()
  if not isinstance(task, glue.Glue):
    raise UserError(
      f"--workdir={folder} holds a run of {config.task!r}; this command needs"
      " one of 'glue'"
    )
  name = _chosen(list(task.tasks))
  groups = _groups(arguments, len(task.tasks[name].texts))
  batch = task.texts.batch_of(name, groups)
  restored = restore.restore(config, task, folder, flags.FLAGS.checkpoint)
  outputs = restore.predictor(restored)(batch).logits
  classes = task.tasks[name].classes
  for texts, row in zip(groups, outputs, strict=True):
    print(" | ".join(texts))
    if classes:
      classify.show(task.texts.probabilities(name, row), classes)
    else:
      print(f"  score {task.texts.answer(name, row)[0]}")


def _chosen(tasks: Sequence[str]) -> str:
  """The task of --task, or the only one."""
  asked = flags.FLAGS.task or (tasks[0] if len(tasks) == 1 else "")
  if asked not in tasks:
    raise UserError(
      f"--task is {asked!r}; choose one of this run: {', '.join(tasks)}"
    )
  return asked


def _groups(arguments: Sequence[str], size: int) -> Sequence[tuple[str, ...]]:
  if len(arguments) % size:
    raise UserError(
      f"{len(arguments)} texts are given, but the task is about pairs; give"
      " two of each pair, one after the other"
    )
  starts = range(0, len(arguments), size)
  return [tuple(arguments[i : i + size]) for i in starts]

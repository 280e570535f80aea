"""Completes the config of a user's own labeled texts from the data.

The variant `own` of `configs/glue.py` leaves open what the data decides: the
splits are "" and the number of outputs is 0.
"""

import ml_collections

from perceiver_jax.data.core import splits
from perceiver_jax.data.core.source import (
  check_several_classes,
  warn_of_rare_classes,
)
from perceiver_jax.data.text import glue_examples


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the config with the leaves that follow from the data.

  Warns of classes with fewer than two training texts.

  Args:
    config: config of `tasks.glue`; it is not changed. One that leaves nothing
      open, or has other tasks, is returned as it is.

  Raises:
    UserError: the texts can't be read, or have a single label.
  """
  own = glue_examples.OWN
  outputs = config.model.decoder.outputs
  if own not in outputs or (
    config.data.train_split and config.data.eval_split and outputs[own]
  ):
    return config
  config = config.copy_and_resolve_references()
  data, outputs = config.data, config.model.decoder.outputs
  data_dir = data.source_args.files.data_dir
  task = glue_examples.task_from_files(data_dir)
  check_several_classes(task.classes, f"the texts in {data_dir!r}")
  outputs[own] = outputs[own] or task.num_outputs
  if not (data.train_split and data.eval_split):
    train, held_out = splits.choose(glue_examples.own_splits(data_dir))
    data.train_split = data.train_split or train
    data.eval_split = data.eval_split or held_out
  examples = glue_examples.files(own, data.train_split, data_dir)
  labels = [int(example["label"]) for example in examples]
  warn_of_rare_classes(labels, task.classes, "texts")
  return config

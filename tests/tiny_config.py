"""The config of `tiny_runs.TinyTask`, for programs: it compiles in a second."""

import tiny_runs

from perceiver_jax.tasks import base


class Task(tiny_runs.TinyTask, base.Task):
  """The task, made from a config."""

  source = preprocess = None  # It makes its data sets without them.

  def __init__(self, config, metadata=None):
    tiny_runs.TinyTask.__init__(self, config.seed)


def get_config():
  config = tiny_runs.tiny_config()
  config.task = "tiny_config:Task"
  return config

"""Tasks, outputs and batches for the tests of tasks."""

import jax
import numpy as np

from perceiver_jax.models.perceiver import Outputs
from perceiver_jax.tasks import registry


def make_config(module, variant="smoke", **leaves):
  """Returns a config with other leaves; "__" in their names is a dot."""
  config = module.get_config(variant)
  for name, value in leaves.items():
    config.update_from_flattened_dict({name.replace("__", "."): value})
  return config


def make_task(module, variant="smoke", **leaves):
  """Returns the task of `make_config`."""
  return registry.make_task(make_config(module, variant, **leaves))


def outputs(logits):
  """Returns outputs of a model that have nothing but float32 logits."""
  logits = jax.tree.map(lambda x: np.asarray(x, np.float32), logits)
  return Outputs(logits, None, (), None)


def random_variables(model, batch, scale=0.1):
  """Returns random parameters and a state of ones, without compiling `init`.

  Layers that start at zero get random values, too.
  """
  init = lambda key, batch: model.init(key, batch, is_training=False)
  params, state = jax.eval_shape(init, jax.random.key(0), batch)
  rng = np.random.default_rng(0)
  draw = lambda x: (scale * rng.normal(size=x.shape)).astype(x.dtype)
  ones = lambda x: np.ones(x.shape, x.dtype)  # Variances are positive.
  variables = jax.tree.map(draw, params), jax.tree.map(ones, state)
  return jax.device_put(variables)


def train_batches(task, count, size):
  """Returns the first training batches of a task."""
  iterator = iter(task.train_dataset(global_batch=size))
  batches = [next(iterator) for _ in range(count)]
  iterator.close()
  return batches

"""Tiny runs for tests of the loop and the entry points, and their results."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import haiku as hk
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax import numpy as jnp

from configs import base
from perceiver_jax import files, weights
from perceiver_jax.data.core import pipeline
from perceiver_jax.data.core.in_memory import InMemoryArrays
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import loop, metrics, restore, step, workdir
from perceiver_jax.training.checkpoints.checkpointer import Checkpointer
from perceiver_jax.viz import sections

FEATURES, CLASSES = 5, 3
# Prefixes of metrics that differ between equal runs.
_MEASURED = ("speed/", "memory/")


class Batches(list):
  """A dataset of given batches."""

  num_batches = list.__len__

  def __iter__(self):
    yield from super().__iter__()


class TinyTask:
  """A task that compiles quickly and has every kind of state a run can have.

  It draws noise on the device and in the data pipeline, has batch statistics,
  and pads its last evaluation batch.
  """

  primary_metric = "eval/accuracy"
  primary_mode = "max"
  rates: ClassVar = {}

  def __init__(self, seed=0):
    self._seed = seed
    self.published = {}

  def dummy_batch(self):
    return {
      "x": np.zeros((1, FEATURES), np.float32),
      "label": np.zeros(1, np.int32),
      "index": np.zeros(1, np.int32),
      "mask": np.ones(1, np.float32),
    }

  def metadata(self):
    return {"class_names": ["a", "b", "c"]}

  def forward(self, batch, *, is_training, return_attention=False):
    x = batch["x"]
    if is_training:
      draw = lambda key: jax.random.normal(
        jax.random.wrap_key_data(key), x.shape[1:]
      )
      x = x + 0.1 * jax.vmap(draw)(batch["rng"])
    mapped = is_training and not hk.running_init()
    axis = step.AXIS if mapped else None
    norm = hk.BatchNorm(True, True, 0.9, cross_replica_axis=axis)
    return hk.Linear(CLASSES)(norm(x, is_training))

  def loss(self, outputs, batch):
    losses = optax.softmax_cross_entropy_with_integer_labels(
      outputs, batch["label"]
    )
    weights = batch.get("mask", jnp.ones_like(losses))
    correct = metrics.in_top_k(outputs, batch["label"], 1)
    return {
      "loss": metrics.weighted(losses, weights),
      "accuracy": metrics.weighted(correct, weights),
    }

  metrics = loss

  def prepare_batch(self, batch):
    return batch

  def finalize_metrics(self, metrics):
    return metrics

  def num_train_examples(self):
    return len(self._source(40))

  def train_dataset(self, **shard):
    add_noise = lambda example, rng: {
      **example,
      "x": example["x"] + rng.normal(size=FEATURES).astype(np.float32) / 10,
    }
    return pipeline.train_dataset(
      self._source(40), seed=self._seed, transform=add_noise, **shard
    )

  def eval_datasets(self, **shard):
    return {"eval": pipeline.eval_dataset(self._source(21), **shard)}

  def sample_indices(self, metrics):
    return ()

  def summary_images(self, outputs, batch):
    return {"logits": np.uint8(jax.nn.softmax(outputs) * 255)}

  def report_sections(self, outputs, batch, metrics):
    return [sections.notes([f"{len(outputs)} examples"])]

  def _source(self, size):
    rng = np.random.default_rng(size)
    x = rng.normal(size=(size, FEATURES)).astype(np.float32)
    label = np.argmax(x[:, :CLASSES], axis=1).astype(np.int32)
    return InMemoryArrays({"x": x, "label": label}, ["a", "b", "c"])


def tiny_config(**leaves):
  """Returns a config of 12 steps, whose intervals do not coincide.

  Args:
    **leaves: Leaves to set; "__" stands for a dot: checkpoint__every_steps=1.
  """
  config = base.run()
  # Exported weights need a spec; the task ignores it.
  config.model = {
    "num_classes": 3,
    "adapter": {},
    "encoder": {
      "num_latents": 1,
      "num_latent_channels": 1,
      "num_blocks": 1,
      "num_self_attends_per_block": 1,
      "num_self_attend_heads": 1,
    },
    "decoder": {"kind": "average_and_project"},
  }
  config.num_steps = 12
  config.batch_size = 8
  config.eval_every_steps = 5
  config.log.every_steps = 4
  config.checkpoint.every_steps = 3
  for name, value in leaves.items():
    config.update_from_flattened_dict({name.replace("__", "."): value})
  return config


def train(folder, config=None, task=None, num_devices=1):
  """Starts or resumes a run; returns its outcome."""
  config = tiny_config() if config is None else config
  task = task or TinyTask(config.seed)
  folder = files.as_path(folder)
  return loop.Trainer(config, task, folder, num_devices).run()


def write_random(folder, config):
  """Writes a finished run with random arrays, without training it."""
  folder, task = Path(folder), tasks.make_task(config)
  abstract = restore.abstract_state(config, task, step.make_mesh(1))
  rng = np.random.default_rng(0)
  draw = lambda x: np.asarray(rng.normal(size=x.shape) / 10).astype(x.dtype)
  state = jax.tree.map(lambda x: jax.device_put(draw(x), x.sharding), abstract)
  # Variances are positive.
  state = state._replace(net_state=jax.tree.map(jnp.abs, state.net_state))
  workdir.write(folder, config, task.metadata())
  checkpointer = Checkpointer(folder / workdir.CHECKPOINTS)
  checkpointer.save(1, state, None, {}, {task.primary_metric: 0.5})
  checkpointer.close()
  variables = restore.local_params(state)
  exported = weights.Weights(config.model.to_dict(), *variables)
  weights.save(folder / weights.EXPORT, exported)


def records(folder):
  """Returns the records of metrics.jsonl without speed and memory."""
  path = files.as_path(folder) / "metrics.jsonl"
  lines = path.read_text().splitlines()
  return [
    {k: v for k, v in json.loads(line).items() if not k.startswith(_MEASURED)}
    for line in lines
  ]


def checkpoint_steps(folder):
  """Returns the steps of all finished checkpoints."""
  checkpoints = files.as_path(folder) / "checkpoints"
  names = [p.name for p in checkpoints.iterdir()]
  return sorted(int(name) for name in names if name.isdecimal())


def arrays(folder, at=None):
  """Returns the arrays by name of the checkpoint of a step, or the latest."""
  at = checkpoint_steps(folder)[-1] if at is None else at
  path = files.as_path(folder) / "checkpoints" / str(at) / "state"
  path = path if files.is_remote(path) else path.resolve()
  reader = ocp.StandardCheckpointer()
  # Restores to one device, whatever the devices it was saved on.
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here),
    dict(reader.metadata(path).item_metadata),
  )
  return jax.tree.map(np.asarray, reader.restore(path, abstract))


def state(folder, at=None):
  """Returns `arrays`, each as (type, shape, bytes)."""
  return {
    name: (str(array.dtype), array.shape, array.tobytes())
    for name, array in arrays(folder, at).items()
  }


def assert_same_end(folder, reference):
  """Asserts that two runs have bitwise the same last state and records."""
  assert checkpoint_steps(folder)[-1] == checkpoint_steps(reference)[-1]
  actual, expected = state(folder), state(reference)
  assert actual.keys() == expected.keys()
  assert [name for name in expected if actual[name] != expected[name]] == []
  assert records(folder) == records(reference)


def assert_alike(folder, reference):
  """Asserts that two runs agree to 1e-5.

  Runs on different numbers of devices sum in different orders.
  """
  actual, expected = arrays(folder), arrays(reference)
  assert actual.keys() == expected.keys()
  for name, array in expected.items():
    # No output depends on the bias of the keys. Its gradient is rounding noise
    # that the optimizer scales to the size of any other update.
    if not name.endswith("attention/key.b"):
      np.testing.assert_allclose(actual[name], array, 1e-5, 1e-5, err_msg=name)
  for mine, theirs in zip(records(folder), records(reference), strict=True):
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
      assert abs(mine[name] - value) <= 1e-5 * max(abs(value), 1), name


def contents(folder):
  """Returns the bytes of every file under a folder by its relative path."""
  files = (p for p in Path(folder).rglob("*") if p.is_file())
  return {str(p.relative_to(folder)): p.read_bytes() for p in files}


class Crash(Exception):
  """Ends a run in the middle of a step."""


def stop_at(reasons):
  """Returns a stand-in for `interrupts.Interrupts`.

  Args:
    reasons: Why to stop, by step; an exception is raised.
  """

  class Interrupts:
    def __init__(self, max_seconds=0.0):
      pass

    def handled(self):
      return contextlib.nullcontext()

    def reason(self, step):
      reason = reasons.get(step, "")
      if isinstance(reason, Exception):
        raise reason
      return reason

  return Interrupts


ROOT = Path(__file__).parents[1]
# Seconds to wait for a program: a busy machine may take minutes to compile it.
_PATIENCE = 400
# Intervals that do not coincide.
LEAVES = {
  "num_steps": 40,
  "eval_every_steps": 15,
  "log.every_steps": 5,
  "checkpoint.every_steps": 6,
}


def cpus(count):
  """Returns the value of XLA_FLAGS that makes JAX see so many CPUs."""
  return f"--xla_force_host_platform_device_count={count}"


class Program:
  """An entry point that runs in its own process, by default on the digits.

  Args:
    folder: The folder of the run.
    leaves: Leaves of the config, added to `LEAVES`.
    flags: Other flags.
    environment: Variables added to the environment of this process.
    name: Name of the entry point.
    folder_flag: Name of the flag for the folder.
    config: Value of --config.
  """

  def __init__(
    self,
    folder,
    leaves=None,
    flags=(),
    environment=None,
    name="train",
    folder_flag="workdir",
    config="configs/digits.py:smoke",
  ):
    leaves = LEAVES | (leaves or {})
    self._metrics = files.as_path(folder) / "metrics.jsonl"
    self._process = subprocess.Popen(
      [
        *(sys.executable, "-m", f"experiments.{name}"),
        f"--{folder_flag}={folder}",
        f"--config={config}",
        *(f"--config.{leaf}={value}" for leaf, value in leaves.items()),
        *flags,
      ],
      cwd=ROOT,
      env=os.environ | {"XLA_FLAGS": ""} | (environment or {}),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def wait_for(self, step):
    """Waits until `step` is recorded, by this process or an earlier one."""
    line = f'{{"step": {step},'
    return self.wait_until(
      lambda: self._metrics.exists() and line in self._metrics.read_text()
    )

  def wait_until(self, condition):
    """Waits until `condition()` is true; fails if the process ends before."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and self._process.poll() is None:
      if condition():
        return self
      time.sleep(0.001)
    raise AssertionError(self.end(signal.SIGKILL))

  def send(self, signal_number):
    """Sends a signal."""
    self._process.send_signal(signal_number)

  def end(self, signal_number=None):
    """Sends a signal if one is given; returns status, stdout and stderr."""
    if signal_number is not None:
      self.send(signal_number)
    try:
      out, err = self._process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
      self.kill()
      raise
    return self._process.returncode, out, err

  def kill(self):
    """Kills the process if it still runs."""
    if self._process.poll() is None:
      self._process.kill()
      self._process.communicate()

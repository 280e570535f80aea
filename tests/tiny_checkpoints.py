"""Small training states, checkpoints of them, and ways to damage these."""

import functools
import os
import re
import shutil
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class State(NamedTuple):
  step: Any
  params: Any
  net_state: Any
  opt_state: Any
  ema_params: Any
  rng: Any


def replicated(num_devices=None):
  devices = np.array(jax.devices()[:num_devices])
  return NamedSharding(Mesh(devices, ("data",)), PartitionSpec())


def make_state(seed=0, width=40, ema=True):
  return jax.device_put(_host_state(seed, width, ema), replicated())


@functools.cache
def _host_state(seed, width, ema):
  rng = np.random.default_rng(seed)
  params = {
    "net/~/lin": {
      "w": jnp.asarray(rng.normal(size=(30, width)), jnp.float32),
      "b": jnp.asarray(rng.normal(size=width), jnp.bfloat16),
    },
    "net/~/empty": {},
  }
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.lamb(optax.constant_schedule(0.1))
  )

  @jax.jit
  def first(params, key):
    grads = jax.tree.map(lambda p: p + 1, params)
    _, opt_state = optimizer.update(grads, optimizer.init(params), params)
    return State(
      step=jnp.int32(7),
      params=params,
      net_state={},
      opt_state=opt_state,
      ema_params=jax.tree.map(lambda p: p * 2, params) if ema else (),
      rng=key,
    )

  return jax.device_get(
    first(params, jax.random.key_data(jax.random.key(seed)))
  )


def abstract(state, num_devices=None):
  sharding = replicated(num_devices)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
  )


def make_iterator():
  dataset = grain.MapDataset.range(100).shuffle(seed=1).repeat().batch(4)
  return iter(dataset.to_iter_dataset())


def assert_bitwise_equal(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def damage_arrays(position):
  """Returns a function that flips a bit of each file at a fraction of it."""

  def damage(step):
    for file in _array_files(step):
      flip_bit(file, int(file.stat().st_size * position))

  return damage


def _array_files(step, pattern="state/**/d/*"):
  """Returns the files with arrays.

  How many there are depends on the timing of the save, and parts of them may
  be superseded and never read.
  """
  files = list(step.glob(pattern))
  largest = max(file.stat().st_size for file in files)
  return [file for file in files if file.stat().st_size > largest / 4]


def flip_bit(file, index):
  data = bytearray(file.read_bytes())
  data[index] ^= 1
  file.write_bytes(data)


def truncate(step, pattern="state/**/d/*"):
  for file in _array_files(step, pattern):
    os.truncate(file, file.stat().st_size // 2)


def swap_arrays(step):
  shutil.rmtree(step / "state")
  shutil.copytree(step.parent / "10" / "state", step / "state")


def swap_position(step):
  file = step / "extras" / "metadata"
  before = file.read_text()
  after = re.sub(r'("next_index": ?)2', r"\g<1>3", before)
  assert after != before
  file.write_text(after)


def empty(step):
  shutil.rmtree(step)
  step.mkdir()


def remove(name):
  return lambda step: (step / name).unlink()


DAMAGES = {
  "first array byte": damage_arrays(0.02),
  "middle array byte": damage_arrays(0.5),
  "late array byte": damage_arrays(0.9),
  "truncated": truncate,
  "intact arrays of another step": swap_arrays,
  "array manifest byte": lambda step: flip_bit(
    step / "state/manifest.ocdbt", 40
  ),
  "array manifest missing": remove("state/manifest.ocdbt"),
  "manifest byte": lambda step: flip_bit(step / "extras/metadata", 100),
  "manifest missing": remove("extras/metadata"),
  "other data position": swap_position,
  "empty directory": empty,
}

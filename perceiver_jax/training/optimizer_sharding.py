"""Shards the optimizer's state over the devices (ZeRO stage 1).

Data-parallel training keeps a copy of the parameters and of Adam's two moments
on every device. With `config.shard_optimizer_state`, each of N devices keeps
and updates 1/N of each moment, and the devices then gather the updates. This
saves memory, and the result only changes by rounding (Rajbhandari et al.,
arXiv 1910.02054, section 5.1).

A state has two layouts. In that of a checkpoint every array has the shape that
it has without sharding, so a run can be resumed on any number of devices. The
pmapped step needs an axis of N in a sharded array: [.., N * n, ..] becomes
[.., N, n, ..].
"""

from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def shard_update(
  optimizer: optax.GradientTransformation, mesh: Mesh
) -> optax.GradientTransformation:
  """Returns an optimizer whose state is sharded in the pmapped step.

  Args:
    optimizer: treats each element of an array separately and does not use the
      parameters, such as `optax.scale_by_adam`.
    mesh: one-dimensional mesh of the devices of the step.

  Returns:
    An optimizer. Its `init` returns a whole state; its `update` is called by
    each device with whole gradients and with that device's part of the state.
  """
  (axis_name,) = mesh.axis_names

  def part(x):
    axis = _sharded_axis(x.shape, mesh.size)
    if axis is None:
      return x
    size = x.shape[axis] // mesh.size
    start = jax.lax.axis_index(axis_name) * size
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis)

  def whole(x, like):
    axis = _sharded_axis(like.shape, mesh.size)
    if axis is None:
      return x
    return jax.lax.all_gather(x, axis_name, axis=axis, tiled=True)

  def update(updates, state, params=None):
    del params
    parts, state = optimizer.update(jax.tree.map(part, updates), state)
    return jax.tree.map(whole, parts, updates), state

  return optax.GradientTransformation(optimizer.init, update)


def sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array of the optimizer's state.

  An array is split along the first axis whose size is a multiple of the number
  of devices. Without such an axis it is replicated.

  Args:
    shape: shape of the array in a checkpoint.
    mesh: one-dimensional mesh of the devices of the step.
  """
  axis = _sharded_axis(shape, mesh.size)
  if axis is None:
    return NamedSharding(mesh, PartitionSpec())
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, *mesh.axis_names))


def pmap_axes(abstract: Any) -> Any:
  """Returns the axes over which pmap maps each array of a state.

  Args:
    abstract: `jax.ShapeDtypeStruct`s with shardings, as in a checkpoint.

  Returns:
    A tree of integers, and of None for replicated arrays.
  """
  return jax.tree.map(_mapped_axis, abstract)


def pmap_layout(abstract: Any) -> Any:
  """Returns the shapes and shardings of a state in the pmapped step.

  Args:
    abstract: `jax.ShapeDtypeStruct`s with shardings, as in a checkpoint.
  """

  def split(x):
    axis = _mapped_axis(x)
    if axis is None:
      return x
    before, size, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    devices = x.sharding.mesh.size
    shape = (*before, devices, size // devices, *after)
    return jax.ShapeDtypeStruct(shape, x.dtype, sharding=x.sharding)

  return jax.tree.map(split, abstract)


def to_layout(state: Any, layout: Any) -> Any:
  """Returns a state with its arrays in the shapes of another layout.

  No array moves between devices.

  Args:
    state: arrays.
    layout: `jax.ShapeDtypeStruct`s with shardings, of equally many elements.
  """

  def reshape(x, like):
    if x.shape == like.shape:
      return x
    fn = jax.jit(lambda x: x.reshape(like.shape), out_shardings=like.sharding)
    return fn(x)

  return jax.tree.map(reshape, state, layout)


def _sharded_axis(shape: tuple[int, ...], num_devices: int) -> int | None:
  """Returns the first axis that `num_devices` > 1 divide, or None."""
  if num_devices == 1:
    return None
  sizes = enumerate(shape)
  return next((i for i, n in sizes if n % num_devices == 0), None)


def _mapped_axis(x: jax.ShapeDtypeStruct) -> int | None:
  spec = x.sharding.spec
  return len(spec) - 1 if len(spec) else None

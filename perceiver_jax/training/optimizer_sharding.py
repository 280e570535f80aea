"""Shards the optimizer's state over the devices (ZeRO-1).

Data-parallel training keeps a copy of the parameters and of Adam's two moments
on every device. With `config.shard_optimizer_state`, each of N devices keeps
and updates 1/N of every moment of which N divides an axis, and the devices then
gather the updates. This saves memory, and the result only changes by rounding
(Rajbhandari et al., arXiv 1910.02054, section 5.1).

In a checkpoint, every array has the shape that it has without sharding, so a
run can be resumed on any number of devices. In the pmapped step, a sharded
array has an axis of size N: [.., N * n, ..] becomes [.., N, n, ..].
"""

from collections.abc import Callable
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
    An optimizer. Its `init` returns the whole state; its `update` is called by
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
  """Returns the axes over which pmap maps the arrays of a state.

  Args:
    abstract: `jax.ShapeDtypeStruct`s with shardings, as in a checkpoint.

  Returns:
    A tree of integers, and of None for replicated arrays.
  """
  return jax.tree.map(_mapped_axis, abstract)


def pmap_shapes(abstract: Any) -> Any:
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


def reshape_to(shapes: Any) -> Callable[[Any], Any]:
  """Returns a compiled function that reshapes the sharded arrays of a state.

  Each device copies its part; nothing moves between devices.

  Args:
    shapes: `jax.ShapeDtypeStruct`s with shardings, as in a checkpoint or from
      `pmap_shapes`.
  """
  wanted = jax.tree.leaves(shapes)
  sharded = [i for i, x in enumerate(wanted) if _mapped_axis(x) is not None]

  def reshape(arrays):
    return [
      x.reshape(wanted[i].shape) for i, x in zip(sharded, arrays, strict=True)
    ]

  compiled = jax.jit(
    reshape, out_shardings=[wanted[i].sharding for i in sharded]
  )

  def reshape_state(state):
    if not sharded:
      return state
    leaves, structure = jax.tree.flatten(state)
    reshaped = compiled([leaves[i] for i in sharded])
    for i, x in zip(sharded, reshaped, strict=True):
      leaves[i] = x
    return jax.tree.unflatten(structure, leaves)

  return reshape_state


def _sharded_axis(shape: tuple[int, ...], num_devices: int) -> int | None:
  """Returns the first axis whose size is a multiple of `num_devices`.

  Returns:
    The axis; None if there is none, or only one device.
  """
  if num_devices == 1:
    return None
  sizes = enumerate(shape)
  return next((i for i, n in sizes if n % num_devices == 0), None)


def _mapped_axis(x: jax.ShapeDtypeStruct) -> int | None:
  spec = x.sharding.spec
  return len(spec) - 1 if len(spec) else None

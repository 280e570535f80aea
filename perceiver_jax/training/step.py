"""The pmapped train step and its state.

The same global batch and seed give the same loss on any number of devices:
gradients are summed over examples, not averaged over shards, randomness is
keyed by example, and batch statistics span all devices, unless the config asks
for those of each device (`sync_batch_norm`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import haiku as hk
import jax
import numpy as np
import optax
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from perceiver_jax.data.core.source import Batch
from perceiver_jax.errors import UserError
from perceiver_jax.training import optimizer_sharding
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.training.precision import precision as use_precision

if TYPE_CHECKING:
  from perceiver_jax.tasks.base import Task

# The mapped axis; models with batch statistics average over it.
AXIS = "data"
# Steps that may be queued on a TPU or GPU.
STEPS_AHEAD = 2


class TrainState(NamedTuple):
  """The training state.

  Attributes:
    step: number of steps taken, an int32 scalar.
    params: float32 parameters.
    net_state: Haiku state, such as running batch statistics.
    opt_state: optimizer state; see `optimizer_sharding` for its shapes.
    ema_params: exponential moving average of `params`, or () if disabled.
    rng: PRNG key data [2], constant throughout a run.
  """

  step: jax.Array
  params: Any
  net_state: Any
  opt_state: Any
  ema_params: Any
  rng: jax.Array

  @property
  def eval_params(self) -> Any:
    """Returns the averaged parameters if enabled, otherwise `params`."""
    return self.ema_params or self.params


def make_mesh(num_devices: int = 0) -> Mesh:
  """Returns a one-dimensional mesh of the first `num_devices` devices.

  Args:
    num_devices: number of devices; 0 for all.

  Raises:
    UserError: fewer than `num_devices` devices are available, or a number is
      given though several processes train together.
  """
  if num_devices and jax.process_count() > 1:
    raise UserError(
      f"--num_devices is {num_devices}; leave it out where several processes"
      " train together: they use all their devices"
    )
  devices = jax.devices()
  if num_devices > len(devices):
    raise UserError(
      f"--num_devices is {num_devices}, but there are {len(devices)}; give at"
      " most that many, or 0 for all"
    )
  return Mesh(np.array(devices[: num_devices or len(devices)]), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding that replicates the state on every device."""
  return NamedSharding(mesh, PartitionSpec())


def place_batch(batch: Batch, mesh: Mesh) -> dict[str, jax.Array]:
  """Returns global arrays [B, ...] from this process's part [b, ...]."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
    for name, value in batch.items()
  }


def place_train_batch(batch: Batch, mesh: Mesh) -> dict[str, jax.Array]:
  """Returns a batch for the train step, [devices, B / devices, ...]."""
  devices = len(mesh.local_devices)
  split = {
    name: value.reshape(devices, -1, *value.shape[1:])
    for name, value in batch.items()
  }
  return place_batch(split, mesh)


def dummy_train_batch(
  example: Batch, batch_size: int, mesh: Mesh
) -> dict[str, jax.Array]:
  """Returns a training batch of zeros, for compiling the step.

  Args:
    example: a batch of 1; see `Task.dummy_batch`.
    batch_size: global number of examples.
    mesh: see `make_mesh`.
  """
  sharding = batch_sharding(mesh)

  def zeros(value):
    shape = (mesh.size, batch_size // mesh.size, *value.shape[1:])
    part = np.zeros(sharding.shard_shape(shape), value.dtype)
    return jax.make_array_from_callback(shape, sharding, lambda _: part)

  # Only evaluation batches have padding, and so a mask.
  return {name: zeros(x) for name, x in example.items() if name != "mask"}


def abstract_state(
  init: Callable[[Batch], TrainState],
  example: Batch,
  mesh: Mesh,
  *,
  shard_optimizer_state: bool = False,
) -> TrainState:
  """Returns the shapes and shardings of the state without allocating it.

  Args:
    init: see `make_init`.
    example: a batch of 1; see `Task.dummy_batch`.
    mesh: see `make_mesh`.
    shard_optimizer_state: whether the optimizer's state is sharded over the
      devices, instead of replicated.

  Raises:
    UserError: the model can't be built from its config.
  """
  try:
    shapes = jax.eval_shape(init, example)
  except UserError:
    raise
  except (ValueError, ArithmeticError) as error:
    raise UserError(
      f"config.model does not make a model: {error}; change its leaves"
    ) from error
  shardings = jax.tree.map(lambda _: replicated(mesh), shapes)
  if shard_optimizer_state:
    # All arrays of its state but Adam's moments are scalars.
    shardings = shardings._replace(
      opt_state=jax.tree.map(
        lambda x: optimizer_sharding.sharding(x.shape, mesh), shapes.opt_state
      )
    )
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )


def model_of(task: "Task", precision: str) -> hk.TransformedWithState:
  """Returns the task's model as a pair of pure functions.

  Args:
    task: the task whose `forward` method is transformed.
    precision: name of the numeric precision; see `training.precision`.

  Returns:
    The transformed model. `apply` takes the arguments of `forward`.
  """

  def forward(batch, is_training, return_attention=False):
    with use_precision(precision):
      return task.forward(
        batch, is_training=is_training, return_attention=return_attention
      )

  return hk.transform_with_state(forward)


def make_init(
  model: hk.TransformedWithState,
  optimizer: optax.GradientTransformation,
  seed: int,
  *,
  use_ema: bool,
) -> Callable[[Batch], TrainState]:
  """Returns a function that creates the initial state from a batch.

  The function uses only the shapes and dtypes of the batch.
  """

  def init(batch):
    rng = jax.random.key(seed)
    batch = _with_keys(batch, rng)
    params, net_state = model.init(rng, batch, is_training=True)
    return TrainState(
      step=jnp.int32(0),
      params=params,
      net_state=net_state,
      opt_state=optimizer.init(params),
      # The step donates its state, and a buffer cannot be donated twice.
      ema_params=jax.tree.map(jnp.copy, params) if use_ema else (),
      rng=jax.random.key_data(rng),
    )

  return init


def make_train_step(
  model: hk.TransformedWithState,
  task: "Task",
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  *,
  num_microbatches: int = 1,
  ema_decay: float = 0.0,
  state_axes: Any = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """Returns the train step, `(state, batch) -> (state, metrics)`.

  Args:
    model: see `model_of`.
    task: the task that prepares the batch and computes the loss.
    optimizer: the optimizer; see `training.optimizers`.
    mesh: see `make_mesh`.
    num_microbatches: number of equal parts into which each device's share of
      the batch is split. They are processed sequentially and their gradients
      are summed. Batch statistics are computed over one part.
    ema_decay: decay rate of the moving average of the parameters; 0 disables
      it.
    state_axes: axes over which pmap maps the state's arrays; see
      `optimizer_sharding.pmap_axes`. None if all are replicated.

  Returns:
    A pmapped function that donates its state, which is replicated on the mesh
    or has the shapes of `optimizer_sharding.pmap_shapes`. It takes a batch from
    `place_train_batch` and sums the metrics over it. It adds 'grad_norm', the
    norm of the gradients, and 'param_norm', the norm of the new parameters.
  """
  gradients = _over_microbatches(_gradients(model, task), num_microbatches)

  def step(state, batch):
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    grads, (net_state, metrics) = gradients(
      state.params, state.net_state, _with_keys(batch, key)
    )
    grads, metrics = jax.lax.psum((grads, metrics), AXIS)
    net_state = _mean_over_devices(net_state)
    # Avoid dividing by zero if the batch has no masked tokens.
    count = jnp.maximum(metrics["loss"][1], 1)
    grads = jax.tree.map(lambda g: g / count, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # An update can make parameters non-finite even if the loss is finite.
    norms = {"grad_norm": _norm(grads), "param_norm": _norm(params)}
    ema = state.ema_params
    if ema_decay:
      ema = optax.incremental_update(params, ema, 1 - ema_decay)
    new_state = TrainState(
      state.step + 1, params, net_state, opt_state, ema, state.rng
    )
    return new_state, {**metrics, **norms}

  return jax.pmap(
    step,
    axis_name=AXIS,
    in_axes=(state_axes, 0),
    out_axes=(state_axes, None),
    devices=list(mesh.devices.flat),
    donate_argnums=0,
  )


def num_steps_ahead() -> int:
  """Returns how many steps may be queued on the device.

  A few overlap the transfer of the next batch with computation; more would only
  use memory. On CPUs none may be, since queued steps can time out in the
  collectives of simulated devices.
  """
  return 0 if jax.default_backend() == "cpu" else STEPS_AHEAD


def check_batch_size(
  batch_size: int, num_devices: int, num_microbatches: int
) -> None:
  """Checks that the batch size divides over devices and microbatches.

  Raises:
    UserError: `batch_size` or `num_microbatches` is invalid.
  """
  if num_microbatches < 1:
    raise UserError(
      f"config.num_microbatches is {num_microbatches}; give 1 or more"
    )
  parts = num_devices * num_microbatches
  if batch_size < 1 or batch_size % parts:
    raise UserError(
      f"config.batch_size is {batch_size}, which does not divide over"
      f" {num_devices} devices x {num_microbatches} microbatches; give a"
      f" multiple of {parts}"
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of a batch along its first axis."""
  return NamedSharding(mesh, PartitionSpec(AXIS))


def _with_keys(batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
  """Adds "rng", a key per example derived from its index in the source."""
  fold = jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(key, i)))
  return {**batch, "rng": fold(batch["index"])}


def _mean_over_devices(net_state: hk.MutableState) -> hk.MutableState:
  """Averages running statistics, which BatchNorm may keep per device."""

  def mean(x):
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return x  # Counters are the same on all devices.
    return jax.lax.pmean(x, AXIS)

  return jax.tree.map(mean, net_state)


def _gradients(model, task):
  """Returns `(params, net_state, batch) -> (grads, (net_state, metrics))`.

  Gradients and metrics are sums over the examples of the batch.
  """

  def gradients(params, net_state, batch):
    batch = task.prepare_batch(batch)

    def objective(params):
      outputs, new_state = model.apply(params, net_state, None, batch, True)
      metrics = task.loss(outputs, batch)
      return metrics["loss"][0], (new_state, metrics)

    return jax.grad(objective, has_aux=True)(params)

  return gradients


def _over_microbatches(gradients, parts):
  """Returns `gradients` summed over `parts` equal parts of a batch."""

  def accumulate(params, net_state, batch):
    split = jax.tree.map(
      lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batch
    )

    def body(carry, part):
      grads, net_state, metrics = carry
      more, (net_state, more_metrics) = gradients(params, net_state, part)
      add = lambda a, b: jax.tree.map(jnp.add, a, b)
      return (add(grads, more), net_state, add(metrics, more_metrics)), None

    first = jax.tree.map(lambda x: x[0], split)
    grads, (_, metrics) = jax.eval_shape(gradients, params, net_state, first)
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), (grads, metrics)
    )
    start = (zeros[0], net_state, zeros[1])
    (grads, net_state, metrics), _ = jax.lax.scan(body, start, split)
    return grads, (net_state, metrics)

  return gradients if parts == 1 else accumulate


def _norm(tree):
  """Returns the norm of a tree as a metric."""
  return optax.tree.norm(tree), jnp.ones((), jnp.float32)

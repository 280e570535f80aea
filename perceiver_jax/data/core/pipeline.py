"""Makes batches of a source with Grain.

A global batch is the batch of all processes together in one step. Process p
gets its p-th contiguous part, so the global batches do not depend on the number
of processes.
"""

from collections.abc import Callable, Sequence

import grain
import numpy as np

from perceiver_jax.data.core import timeouts
from perceiver_jax.data.core.batches import Batches
from perceiver_jax.data.core.source import Example, Source
from perceiver_jax.errors import UserError

TrainTransform = Callable[[Example, np.random.Generator], Example]
# The last argument is the number of examples taken before this one.
Curriculum = Callable[[Example, np.random.Generator, int], Example]
EvalTransform = Callable[[Example], Example]

_KEY = "curriculum_key"


def train_dataset(
  source: Source,
  *,
  global_batch: int,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
  transform: TrainTransform | None = None,
  shuffle: bool = True,
  num_workers: int = 0,
  curriculum: Curriculum | None = None,
  num_doubled: int = 0,
  with_partners: bool = False,
  max_seconds: float = 0.0,
) -> grain.IterDataset:
  """Makes endless training batches.

  Every epoch takes each example once, in a new order. Epochs follow each other
  without a gap, so a batch may contain the end of one and the start of the
  next.

  Args:
    source: the examples; there may be fewer than a batch.
    global_batch: examples in a batch over all processes.
    seed: random seed of the order and of the transform; not negative.
    process_index: index of the part of each batch to make.
    process_count: number of parts.
    transform: maps an example and a random generator to an example of fixed
      shapes. The generator depends only on the seed, the example and the
      epoch.
    shuffle: whether to shuffle.
    num_workers: processes that prepare batches; 0 uses threads only.
    curriculum: a transform applied after `transform` that also gets the number
      of examples taken so far. Its generator has the same dependencies.
    num_doubled: number of examples at the beginning of training that come from
      half as many, each taken twice in succession; rounded down to even.
    with_partners: whether each example comes with the next one of the order as
      its partner, for MixUp and CutMix. A batch then takes twice as many
      examples of the source, and no two of its examples have the same partner.
    max_seconds: limit on the wait for a batch; 0 for none.

  Returns:
    A dataset of dicts of arrays [global_batch / process_count, ...], among
    them `index` int32, the position of each example in the source. The state
    of its iterators is the number of batches taken, and stays valid when
    `num_workers` or `process_count` change. With partners, `partner_NAME` is
    the partner's value of each field but `index`, and `batch_position` int32
    is the position of each example in its global batch.

  Raises:
    UserError: a number is out of range or the source is empty.
  """
  local_batch = _local_batch(source, global_batch, process_index, process_count)
  shuffle_seed, transform_seed, curriculum_seed = _split_seed(seed)
  length = len(source)

  def add_index(position: int, example: Example) -> Example:
    return {**example, "index": np.int32(position % length)}

  source, in_memory = _timed(source, max_seconds)
  ds = grain.MapDataset.source(source)
  # Before the shuffle, a position identifies an example and an epoch, so the
  # random generator of an example does not depend on the order.
  if transform is not None:
    ds = ds.random_map(transform, seed=transform_seed)
  if curriculum is not None:
    ds = ds.random_map(_add_curriculum_key, seed=curriculum_seed)
  ds = ds.map_with_index(add_index)
  if shuffle:
    ds = ds.shuffle(seed=shuffle_seed)
  ds = ds.repeat()
  if curriculum is not None:
    ds = _apply_curriculum(ds, curriculum, num_doubled)
  if with_partners:
    ds = _add_partners(ds, global_batch)
  ds = ds.batch(local_batch, drop_remainder=True)
  ds = ds[process_index::process_count]
  return Batches(ds, num_workers, in_memory, max_seconds)


def eval_dataset(
  source: Source,
  *,
  global_batch: int,
  process_index: int = 0,
  process_count: int = 1,
  transform: EvalTransform | None = None,
  num_workers: int = 0,
  max_seconds: float = 0.0,
) -> grain.IterDataset:
  """Makes one ordered pass over a source.

  The last global batch is padded with copies of the last example, so that all
  processes get the same number of full batches.

  Args:
    source: the examples.
    global_batch: examples in a batch over all processes.
    process_index: index of the part of each batch to make.
    process_count: number of parts.
    transform: maps an example to an example of fixed shapes.
    num_workers: processes that prepare batches; 0 uses threads only.
    max_seconds: limit on the wait for a batch; 0 for none.

  Returns:
    A dataset of dicts of arrays [global_batch / process_count, ...], among
    them `index` int32 and `mask` float32: 1 for an example that counts, 0 for
    padding and for examples that the source marks as `unreadable`.

  Raises:
    UserError: a number is out of range or the source is empty.
  """
  local_batch = _local_batch(source, global_batch, process_index, process_count)
  length = len(source)
  source, in_memory = _timed(source, max_seconds)

  def example_at(position: int) -> Example:
    index = min(position, length - 1)
    example = source[index]
    # The example that replaces an unreadable one also occurs itself.
    counts = position < length and not example.get("unreadable", 0)
    if transform is not None:
      example = transform(example)
    mask = np.float32(counts)
    return {**example, "index": np.int32(index), "mask": mask}

  padded_length = -(-length // global_batch) * global_batch
  ds = grain.MapDataset.range(padded_length).map(example_at).batch(local_batch)
  ds = ds[process_index::process_count]
  return Batches(ds, num_workers, in_memory, max_seconds)


def _local_batch(
  source: Source, global_batch: int, process_index: int, process_count: int
) -> int:
  """Checks arguments and returns the batch size of one process."""
  if not len(source):
    raise UserError("empty dataset: the source has no example")
  if global_batch < 1:
    raise UserError(f"the batch size is {global_batch}; give 1 or more")
  if not 0 <= process_index < process_count:
    raise ValueError(f"process {process_index} of {process_count}")
  if global_batch % process_count:
    raise UserError(
      f"the batch size {global_batch} does not divide over {process_count} "
      f"processes; change it to a multiple of {process_count}"
    )
  return global_batch // process_count


def _timed(source: Source, max_seconds: float) -> tuple[Source, bool]:
  """Returns a source that warns of slow reads, and whether it is in memory."""
  in_memory = getattr(source, "in_memory", False)
  if in_memory or not max_seconds:
    return source, in_memory
  return timeouts.TimedSource(source, max_seconds), in_memory


def _add_curriculum_key(example: Example, rng: np.random.Generator) -> Example:
  """Adds the seed of the curriculum's generator to an example."""
  return {**example, _KEY: rng.integers(2**63)}


def _apply_curriculum(
  ordered: grain.MapDataset, curriculum: Curriculum, num_doubled: int
) -> grain.MapDataset:
  """Applies a curriculum to examples in the order of training."""
  num_doubled -= num_doubled % 2

  def example_at(position: int) -> Example:
    doubled = min(position, num_doubled)
    example = dict(ordered[position - doubled + doubled // 2])
    rng = np.random.default_rng(example.pop(_KEY))
    return curriculum(example, rng, position)

  return grain.MapDataset.range(len(ordered)).map(example_at)


def _add_partners(
  ordered: grain.MapDataset, global_batch: int
) -> grain.MapDataset:
  """Makes an example of every two, of which the second is the partner."""

  def join(pair: Sequence[Example]) -> Example:
    example, partner = pair
    return {
      **example,
      **{f"partner_{k}": x for k, x in partner.items() if k != "index"},
    }

  def add_position(position: int, example: Example) -> Example:
    return {**example, "batch_position": np.int32(position % global_batch)}

  pairs = ordered.batch(2, drop_remainder=True, batch_fn=join)
  return pairs.map_with_index(add_position)


def _split_seed(seed: int) -> tuple[int, int, int]:
  """Derives independent 32-bit seeds for the order and the two transforms.

  Grain adds the epoch to its seed, so without this, runs of consecutive seeds
  would share all but one of their epochs.
  """
  if seed < 0:
    raise UserError(f"the seed is {seed}; give 0 or more")
  # Generating more seeds would not change the first ones.
  first, second, third = np.random.SeedSequence(seed).generate_state(3)
  return int(first), int(second), int(third)

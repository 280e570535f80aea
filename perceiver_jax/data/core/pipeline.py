"""Batches from a source, the same on any number of processes.

A global batch is what all processes take together in one step. Process p gets
the p-th contiguous part of each, so joining the parts in the order of the
processes gives the same global batches whatever their number.
"""

import os
from collections.abc import Callable
from typing import Any

import grain
import numpy as np

from perceiver_jax.data.core.source import Example, Source
from perceiver_jax.errors import UserError

TrainTransform = Callable[[Example, np.random.Generator], Example]
# The last argument counts the examples that training takes before this one.
Curriculum = Callable[[Example, np.random.Generator, int], Example]
EvalTransform = Callable[[Example], Example]

# Each thread works on a whole batch, so more threads also mean more memory.
_MAX_THREADS = 16
# Inside a worker process: one batch in the making, one waiting.
_WORKER_THREADS = 2
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
) -> grain.IterDataset:
  """Makes endless training batches.

  Every epoch takes each example once, in its own order; epochs follow each
  other without a gap, so a batch may straddle two of them.

  Args:
    source: the examples; fewer than a batch are enough.
    global_batch: examples in a batch over all processes.
    seed: of the order and of the transform; not negative.
    process_index: which part of each batch to make.
    process_count: number of parts.
    transform: from an example and a generator to an example whose shapes do
      not vary. The generator depends only on the seed, the example and the
      epoch.
    shuffle: whether to shuffle.
    num_workers: processes that prepare batches; 0 uses threads only.
    curriculum: a transform that comes after `transform` and changes as
      training goes on. Its generator depends on the same.
    num_doubled: how many examples, at the beginning of training, come twice in
      succession; each counts twice, and an odd one is cut off.

  Returns:
    A dataset of dicts of arrays [global_batch / process_count, ...], `index`
    int32 among them: the position of each example in the source. The state
    of its iterators is the number of batches taken, and stays valid when
    `num_workers` or `process_count` change.

  Raises:
    UserError: a number is out of range or the source is empty.
  """
  local_batch = _local_batch(source, global_batch, process_index, process_count)
  shuffle_seed, transform_seed, curriculum_seed = _split_seed(seed)
  length = len(source)

  def add_index(position: int, example: Example) -> Example:
    return {**example, "index": np.int32(position % length)}

  ds = grain.MapDataset.source(source)
  # Before the shuffle, positions count examples and epochs, not steps: that is
  # what makes the generator of an example independent of the order.
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
  ds = ds.batch(local_batch, drop_remainder=True)
  return _Batches(ds[process_index::process_count], source, num_workers)


def eval_dataset(
  source: Source,
  *,
  global_batch: int,
  process_index: int = 0,
  process_count: int = 1,
  transform: EvalTransform | None = None,
  num_workers: int = 0,
) -> grain.IterDataset:
  """Makes one ordered pass over a source.

  The last global batch is filled up with copies of the last example, so that
  all processes get the same number of full batches.

  Args:
    source: the examples.
    global_batch: examples in a batch over all processes.
    process_index: which part of each batch to make.
    process_count: number of parts.
    transform: from an example to an example whose shapes do not vary.
    num_workers: processes that prepare batches; 0 uses threads only.

  Returns:
    A dataset of dicts of arrays [global_batch / process_count, ...], among
    them `index` int32 and `mask` float32: 1 for the first and only time an
    example comes, 0 for a copy, and 0 where the source says `unreadable`.

  Raises:
    UserError: a number is out of range or the source is empty.
  """
  local_batch = _local_batch(source, global_batch, process_index, process_count)
  length = len(source)

  def example_at(position: int) -> Example:
    index = min(position, length - 1)
    example = source[index]
    # What takes the place of an unreadable example comes once more by itself.
    counts = position < length and not example.get("unreadable", 0)
    if transform is not None:
      example = transform(example)
    mask = np.float32(counts)
    return {**example, "index": np.int32(index), "mask": mask}

  padded_length = -(-length // global_batch) * global_batch
  ds = grain.MapDataset.range(padded_length).map(example_at).batch(local_batch)
  return _Batches(ds[process_index::process_count], source, num_workers)


class _Batches(grain.IterDataset):
  """Iterates over batches in order, made ahead by threads or processes."""

  def __init__(
    self, batches: grain.MapDataset, source: Source, num_workers: int
  ):
    super().__init__()
    if num_workers < 0:
      raise UserError(f"num_workers is {num_workers}; give 0 or more")
    self._batches = batches
    self._num_workers = num_workers
    self._num_threads = _num_threads(source, num_workers)

  def __iter__(self) -> "_BatchIterator":
    return _BatchIterator(self)

  def start_at(self, next_index: int) -> grain.DatasetIterator:
    """Starts an iterator at batch `next_index`."""
    options = grain.ReadOptions(self._num_threads, self._num_threads)
    ds = self._batches[next_index:].to_iter_dataset(options)
    if self._num_workers:
      ds = ds.mp_prefetch(grain.MultiprocessingOptions(self._num_workers))
    return iter(ds)

  def num_batches(self) -> int:
    """Number of batches; practically endless in training."""
    return len(self._batches)


class _BatchIterator(grain.DatasetIterator):
  """An iterator whose whole state is the number of batches taken.

  Grain's own state depends on the number of workers. Batches can be made in
  any order, so a count is enough, and a run may resume with other workers.
  """

  def __init__(self, batches: _Batches):
    super().__init__()
    self._batches = batches
    self._next_index = 0
    self._is_open = True
    self._iterator: grain.DatasetIterator | None = None

  def __next__(self) -> dict[str, np.ndarray]:
    if not self._is_open:
      raise ValueError("the iterator is closed; make a new one")
    if self._next_index >= self._batches.num_batches():
      raise StopIteration
    if self._iterator is None:
      self._iterator = self._batches.start_at(self._next_index)
    batch = next(self._iterator)
    self._next_index += 1
    return batch

  def get_state(self) -> dict[str, Any]:
    """Returns the number of batches taken so far."""
    return {"next_index": self._next_index}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to where `get_state` was called."""
    next_index = int(state["next_index"])
    if not 0 <= next_index <= self._batches.num_batches():
      raise ValueError(
        f"cannot go to batch {next_index} of {self._batches.num_batches()}"
      )
    self._stop()
    self._next_index = next_index

  def close(self) -> None:
    """Stops the workers; the iterator cannot be used any more."""
    self._is_open = False
    self._stop()
    super().close()

  def _stop(self) -> None:
    if self._iterator is not None:
      self._iterator.close()
      self._iterator = None


def _local_batch(
  source: Source, global_batch: int, process_index: int, process_count: int
) -> int:
  """Checks the numbers of a pipeline; returns the batch of one process."""
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


def _add_curriculum_key(example: Example, rng: np.random.Generator) -> Example:
  """Draws the seed of what a curriculum draws."""
  return {**example, _KEY: rng.integers(2**63)}


def _apply_curriculum(
  ordered: grain.MapDataset, curriculum: Curriculum, num_doubled: int
) -> grain.MapDataset:
  """Changes examples in the order they are taken in."""
  num_doubled -= num_doubled % 2

  def example_at(position: int) -> Example:
    doubled = min(position, num_doubled)
    example = dict(ordered[position - doubled + doubled // 2])
    rng = np.random.default_rng(example.pop(_KEY))
    return curriculum(example, rng, position)

  return grain.MapDataset.range(len(ordered)).map(example_at)


def _split_seed(seed: int) -> tuple[int, int, int]:
  """Derives unrelated 32-bit seeds, for the order and the two transforms.

  Grain adds the epoch to its seed, so neighboring seeds used as they are
  would share all but one of their epochs.
  """
  if seed < 0:
    raise UserError(f"the seed is {seed}; give 0 or more")
  # A longer state begins as a shorter one does.
  first, second, third = np.random.SeedSequence(seed).generate_state(3)
  return int(first), int(second), int(third)


def _num_threads(source: Source, num_workers: int) -> int:
  """Threads that make batches, in each process that makes any."""
  if getattr(source, "in_memory", False):
    return 1  # Nothing waits for a disk or a decoder: more would only contend.
  if num_workers:
    return _WORKER_THREADS
  return min(_MAX_THREADS, os.cpu_count() or 1)

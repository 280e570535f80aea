"""Iterates over batches that threads or processes prepare ahead."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from multiprocessing import resource_tracker
from typing import Any

import grain
import numpy as np
from absl import logging

from perceiver_jax.data.core import timeouts
from perceiver_jax.errors import DataTimeoutError, UserError

# Each thread works on a whole batch, so more threads also mean more memory.
_MAX_THREADS = 16
# In a worker process, one thread makes a batch while another batch waits.
_WORKER_THREADS = 2
# In the message of Grain's error.
_WORKER_KILLED = "terminated unexpectedly"
# Signals that all processes get and that are left to the first: a terminal
# sends Ctrl-C to all of them, and Slurm can send SIGUSR1, which asks for a
# profile.
_SIGNALS = (signal.SIGINT, signal.SIGUSR1)
# Times that killed workers are started again; the system may kill them because
# memory is short, and then would do so forever.
_MAX_RESTARTS = 3


class Batches(grain.IterDataset):
  """Batches in order, prefetched by threads or processes.

  Args:
    batches: the batches.
    num_workers: processes that prepare batches; 0 uses threads only.
    in_memory: whether examples are fetched without reading or decoding files.
    max_seconds: limit on the wait for a batch; 0 for none.
  """

  def __init__(
    self,
    batches: grain.MapDataset,
    num_workers: int,
    in_memory: bool,
    max_seconds: float,
  ):
    super().__init__()
    if num_workers < 0:
      raise UserError(f"num_workers is {num_workers}; give 0 or more")
    self._batches = batches
    self.num_workers = num_workers
    self._num_threads = _num_threads(in_memory, num_workers)
    self.max_seconds = max_seconds

  def __iter__(self) -> "_BatchIterator":
    return _BatchIterator(self)

  def start_at(self, next_index: int) -> grain.DatasetIterator:
    """Starts an iterator at batch `next_index`."""
    options = grain.ReadOptions(self._num_threads, self._num_threads)
    ds = self._batches[next_index:].to_iter_dataset(options)
    if self.num_workers:
      ds = ds.mp_prefetch(
        grain.MultiprocessingOptions(self.num_workers), _start_worker
      )
    return iter(ds)

  def num_batches(self) -> int:
    """Returns the number of batches; practically endless in training."""
    return len(self._batches)


class _BatchIterator(grain.DatasetIterator):
  """An iterator whose state is the number of batches taken.

  Grain's own state depends on the number of workers. Batch i depends on i
  alone, so a count is enough, and a run may resume with other workers.
  """

  def __init__(self, batches: Batches):
    super().__init__()
    self._batches = batches
    self._next_index = 0
    self._is_open = True
    self._num_restarts = 0
    self._iterator: grain.DatasetIterator | None = None

  def __next__(self) -> dict[str, np.ndarray]:
    if not self._is_open:
      raise ValueError("the iterator is closed; make a new one")
    if self._next_index >= self._batches.num_batches():
      raise StopIteration
    batch = self._next_batch()
    self._next_index += 1
    return batch

  def _next_batch(self) -> dict[str, np.ndarray]:
    """Returns the next batch; starts the workers again if one was killed.

    Raises:
      UserError: they were killed too often.
      DataTimeoutError: there is no batch within the time limit.
    """
    while True:
      take = next
      if self._iterator is None:
        self._iterator = self._batches.start_at(self._next_index)
        if self._batches.num_workers:
          take = _first
      try:
        with timeouts.limited_wait(self._batches.max_seconds):
          return take(self._iterator)
      except DataTimeoutError:
        # Closing the iterator would wait for the processes that hang.
        for worker in multiprocessing.active_children():
          worker.kill()
        raise
      except RuntimeError as error:
        if _WORKER_KILLED not in str(error):
          raise
        self._stop()
        self._num_restarts += 1
        if self._num_restarts > _MAX_RESTARTS:
          raise UserError(
            f"processes that prepare batches were killed {self._num_restarts}"
            " times, perhaps because memory is short; lower"
            " config.data.num_workers"
          ) from error
        logging.warning(
          "a process that prepares batches was killed; starting it again at"
          " batch %d",
          self._next_index,
        )

  def get_state(self) -> dict[str, Any]:
    """Returns the number of batches taken so far."""
    return {"next_index": self._next_index}

  def set_state(self, state: dict[str, Any]) -> None:
    """Moves to the position at which `get_state` was called."""
    next_index = int(state["next_index"])
    if not 0 <= next_index <= self._batches.num_batches():
      raise ValueError(
        f"cannot move to batch {next_index} of {self._batches.num_batches()}"
      )
    self._stop()
    self._next_index = next_index

  def close(self) -> None:
    """Stops the workers; the iterator cannot be used afterwards."""
    self._is_open = False
    self._stop()
    super().close()

  def _stop(self) -> None:
    if self._iterator is not None:
      self._iterator.close()
      self._iterator = None


def _first(iterator: grain.DatasetIterator) -> dict[str, np.ndarray]:
  """Returns the first batch of an iterator, which starts its workers.

  Grain starts them in this call. They inherit which signals its thread blocks;
  a worker that a Ctrl-C ended before `_start_worker` would block Grain forever.
  """
  batch = concurrent.futures.Future()

  def take():
    resource_tracker.ensure_running()  # Starting it unblocks SIGINT.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
      batch.set_result(next(iterator))
    except BaseException as error:
      batch.set_exception(error)

  threading.Thread(target=take, daemon=True).start()
  return batch.result()


def _start_worker(worker_index: int, worker_count: int) -> None:
  """Prepares a worker process for signals and for the end of the run.

  If the first process is killed, its workers would wait forever for room in a
  queue.
  """
  del worker_index, worker_count
  for number in _SIGNALS:
    signal.signal(number, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)


def _num_threads(in_memory: bool, num_workers: int) -> int:
  """Returns the number of threads that make batches in each process."""
  if in_memory:
    return 1  # Threads would compete for cores, without anything to wait for.
  if num_workers:
    return _WORKER_THREADS
  return min(_MAX_THREADS, os.cpu_count() or 1)

"""Shares of this machine's devices for runs that train at the same time."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from perceiver_jax.errors import UserError

_GPUS = "CUDA_VISIBLE_DEVICES"


class Share(NamedTuple):
  """A part of the devices.

  Attributes:
    gpus: Numbers of the GPUs; empty if the machine has none, or all are meant.
    cores: Processor cores; empty for all.
  """

  gpus: tuple[str, ...] = ()
  cores: frozenset[int] = frozenset()

  def environment(self) -> dict[str, str]:
    """Returns the environment of a process that is to see its GPUs only."""
    return {_GPUS: ",".join(self.gpus)} if self.gpus else {}

  @contextlib.contextmanager
  def for_children(self) -> Iterator[None]:
    """Keeps processes that are started in the context to its cores."""
    before = os.sched_getaffinity(0)
    if self.cores:
      os.sched_setaffinity(0, self.cores)
    try:
      yield
    finally:
      os.sched_setaffinity(0, before)


def shares(count: int) -> list[Share]:
  """Divides the GPUs and processor cores among `count` runs.

  More runs than cores share all cores.

  Raises:
    UserError: There are fewer GPUs than runs.
  """
  if count == 1:
    return [Share()]
  gpus, cores = _gpus(), sorted(os.sched_getaffinity(0))
  if gpus and len(gpus) < count:
    raise UserError(
      f"--parallel={count}: there are only {len(gpus)} GPUs, and each run needs"
      f" one; give --parallel={len(gpus)} or less"
    )
  per_run = len(cores) // count
  return [
    Share(
      tuple(gpus[number::count]),
      frozenset(cores[number * per_run : (number + 1) * per_run]),
    )
    for number in range(count)
  ]


def _gpus() -> list[str]:
  """Returns the numbers or names of the NVIDIA GPUs that programs may use."""
  if _GPUS in os.environ:
    return [gpu for gpu in os.environ[_GPUS].split(",") if gpu]
  if shutil.which("nvidia-smi") is None:
    return []
  listing = subprocess.run(
    ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
    capture_output=True,
    text=True,
    check=False,
  )
  return listing.stdout.split() if listing.returncode == 0 else []

"""Compares the speed and memory of the processes of a run."""

import platform
import resource
import sys
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

_GB = 1e9
_MAX_NAME = 64


def memory() -> dict[str, float]:
  """Returns the most memory that this process has used so far, in GB.

  "host_gb" does not count the processes that prepare data. "device_gb" is that
  of the device with most; CPUs have none.
  """
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  unit = 1 if sys.platform == "darwin" else 1024
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
  of_device = {"device_gb": max(peaks) / _GB} if peaks else {}
  return {"host_gb": peak * unit / _GB, **of_device}


class Comparison(NamedTuple):
  """A comparison of the processes of a run in an interval.

  Attributes:
    speed: the slowest process and its wait for data; {} if there is only one.
    memory: the most memory of any process.
    text: names the slowest process, or "".
    profile: whether any process requests a profile.
  """

  speed: dict[str, float]
  memory: dict[str, float]
  text: str
  profile: bool


class ProcessStats:
  """Compares the processes of a run.

  All of them wait for each other in every step, and so take the same time for
  it. The slowest is the one that the others wait for: it waits longest for its
  data, and they wait for the devices meanwhile.
  """

  def __init__(self):
    self._hosts = [platform.node()]
    if jax.process_count() > 1:
      name = platform.node().encode()[:_MAX_NAME].ljust(_MAX_NAME, b"\0")
      names = multihost_utils.process_allgather(np.frombuffer(name, np.uint8))
      self._hosts = [
        bytes(row).rstrip(b"\0").decode("utf-8", "replace") for row in names
      ]

  def compare(
    self, speed: Mapping[str, float], profile: bool = False
  ) -> Comparison:
    """Gathers measurements; all processes must call it at the same steps.

    Args:
      speed: this process's speed, with its "data_wait_percent".
      profile: whether this process requests a profile.
    """
    own = memory()
    if len(self._hosts) == 1:
      return Comparison({}, own, "", profile)
    row = [speed["data_wait_percent"], profile, *own.values()]
    rows = multihost_utils.process_allgather(np.asarray(row, np.float32))
    waits = rows[:, 0]
    slowest = int(np.argmax(waits))
    return Comparison(
      {
        "slowest_process": slowest,
        "slowest_data_wait_percent": float(waits[slowest]),
      },
      dict(zip(own, map(float, rows[:, 2:].max(0)), strict=True)),
      f"slowest process {slowest} on {self._hosts[slowest]} waits"
      f" {waits[slowest]:.1f}% for data, the median {np.median(waits):.1f}%",
      bool(rows[:, 1].any()),
    )

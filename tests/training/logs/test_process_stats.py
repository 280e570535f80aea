"""Tests of comparing the processes of a run."""

import numpy as np
import pytest

from perceiver_jax.training.logs import process_stats


def test_a_single_process_is_not_compared(monkeypatch):
  monkeypatch.setattr(
    process_stats.multihost_utils, "process_allgather", pytest.fail
  )
  result = process_stats.ProcessStats().compare({"data_wait_percent": 3.0})
  assert (result.speed, result.text, result.profile) == ({}, "", False)
  # This process has JAX loaded.
  assert 0.05 < result.memory["host_gb"] < 500


class Device:
  def __init__(self, stats):
    self.memory_stats = lambda: stats


def test_memory_is_that_of_the_fullest_device(monkeypatch):
  peaks = [{"peak_bytes_in_use": 2 * 10**9}, {"peak_bytes_in_use": 10**9}]
  monkeypatch.setattr(
    process_stats.jax, "local_devices", lambda: [*map(Device, peaks)]
  )
  assert process_stats.memory()["device_gb"] == 2


def test_the_slowest_process_is_named(monkeypatch):
  monkeypatch.setattr(process_stats.jax, "process_count", lambda: 3)
  monkeypatch.setattr(process_stats, "memory", lambda: {"host_gb": 1.0})
  gathered = {
    np.uint8: lambda own: np.stack([own, own * 0, own]),
    np.float32: lambda own: np.stack([own, [61.5, 1, 2.5], [4, 0, 2]]),
  }
  monkeypatch.setattr(
    process_stats.multihost_utils,
    "process_allgather",
    lambda own: gathered[own.dtype.type](own),
  )
  monkeypatch.setattr(process_stats.platform, "node", lambda: "host-a")
  stats = process_stats.ProcessStats()
  stats._hosts[1] = "host-b"
  result = stats.compare({"data_wait_percent": 2.0})
  assert result.speed == {
    "slowest_process": 1,
    "slowest_data_wait_percent": 61.5,
  }
  assert result.memory == {"host_gb": 2.5}
  assert result.profile
  assert result.text == (
    "slowest process 1 on host-b waits 61.5% for data, the median 4.0%"
  )

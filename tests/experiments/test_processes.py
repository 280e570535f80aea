"""Tests of ending one process of several when another is lost."""

import signal
import subprocess
import sys

import pytest
import tiny_runs

# A process whose service knows the count of process 2.
_ABORTS = """
import itertools, os, sys
from experiments import processes

process, is_alive = map(int, sys.argv[1:])
processes._SILENCE, processes._BEAT = 0.5, 0.1
counts = itertools.count()

class Service:
  def key_value_set(self, key, value, allow_overwrite):
    pass

  def key_value_dir_get(self, key):
    return [(f"{key}2", str(next(counts)) if is_alive else "0")]

processes._Watch(Service(), process, 4, "localhost:1").start()
os.abort()
"""


@pytest.mark.parametrize(
  ("process", "is_alive", "status", "message"),
  [
    (0, 0, 75, "error: process 2 of 4 no longer responds, so process 0 ends"),
    (0, 1, -signal.SIGABRT, ""),
    # Nothing listens where the service of process 0 should be.
    (1, 1, 75, "error: process 0 of 4 can't be reached, so process 1 ends"),
  ],
)
def test_an_abort_waits_for_the_loss_that_caused_it(
  process, is_alive, status, message
):
  done = subprocess.run(
    [sys.executable, "-c", _ABORTS, str(process), str(is_alive)],
    cwd=tiny_runs.ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == status, done
  assert done.stderr.startswith(message)
  assert len(done.stderr.splitlines()) == bool(message)

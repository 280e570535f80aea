"""Tests of runs of several processes in a bucket, on a server of Cloud Storage.

The processes run on this machine; on a pod, each has a host of its own.
"""

import bucket_server
import pytest
import tiny_runs as runs

from perceiver_jax import files
from perceiver_jax.training.logs import process_log

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

# Saving in a bucket takes longer than the steps between two checkpoints, so
# that a process is killed long before the last step.
LEAVES = {"num_steps": 40, "checkpoint.every_steps": 3}
CONFIG = {"config": "tests/tiny_config.py"}


@pytest.fixture(scope="module")
def single_process(tmp_path_factory, program):
  """Returns the folder of a run of one process with two devices, on a disk."""
  folder = tmp_path_factory.mktemp("one")
  environment = {"XLA_FLAGS": runs.cpus(2)}
  run = program(folder, LEAVES, environment=environment, **CONFIG)
  status, _, err = run.end()
  assert status == 0, err
  return folder


@pytest.mark.parametrize("victim", [0, 1])
def test_two_processes_are_killed_and_resumed_in_a_bucket(
  cloud_storage, start_processes, single_process, victim
):
  name = f"processes-{victim}"
  url = f"gs://{bucket_server.BUCKET}/{name}"
  pair = start_processes(2, url, LEAVES, **CONFIG)
  saved = f"{name}/checkpoints/3/commit_success.txt"
  pair[0].wait_until(lambda: cloud_storage.names(saved))
  pair[victim].kill()
  status, _, err = pair[1 - victim].end()
  assert status == 75, err
  assert f"error: process {victim} of 2 " in err
  assert not cloud_storage.names(f"{name}/results.json")
  pair = start_processes(2, url, LEAVES, **CONFIG)
  (first, out, err), (second, _, other) = (run.end() for run in pair)
  assert (first, second) == (0, 0), (err, other)
  assert "resumed from step" in " ".join(out.split())
  # Two numbers have the same sum in any order.
  runs.assert_same_end(url, single_process)
  assert not cloud_storage.names(f"{name}/.lock")
  heartbeats = process_log.read_heartbeats(files.as_path(url))
  assert [h["doing"] for h in heartbeats] == ["ended", "ended"]

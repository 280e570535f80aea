"""Tests of the lock in a bucket, which is in memory."""

import json
import threading
import time

import pytest
from absl import logging

from perceiver_jax import files
from perceiver_jax.buckets import lock as lock_lib
from perceiver_jax.errors import UserError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(lock_lib, "_BEAT", 0.05)
  monkeypatch.setattr(lock_lib, "_STALE", 0.6)
  monkeypatch.setattr(lock_lib, "_POLL", 0.02)


@pytest.fixture
def warnings(monkeypatch):
  lines = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *x: lines.append(text % x)
  )
  return lines


def _lock(folder):
  return lock_lib.BucketLock(folder / ".lock", "--workdir=gs://bucket/folder")


def _objects(folder):
  return sorted(path.name for path in (folder / ".lock").iterdir())


def test_a_lock_has_one_holder(memory_bucket):
  first = _lock(memory_bucket)
  with pytest.raises(
    UserError, match=r"in use by another run \(process \d+ on"
  ):
    _lock(memory_bucket)
  first.check()
  first.release()
  second = _lock(memory_bucket)
  second.check()
  second.release()
  assert not (memory_bucket / ".lock" / "000001").exists()


def test_one_of_many_gets_the_lock(memory_bucket):
  got, refused = [], []

  def take():
    try:
      got.append(_lock(memory_bucket))
    except UserError as error:
      refused.append(error)

  threads = [threading.Thread(target=take) for _ in range(6)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert (len(got), len(refused)) == (1, 5)
  got[0].release()


def _abandoned(folder, **changes):
  """Writes the object of a process that was killed."""
  holder = {"process": 7, "host": "gone", "machine": "", "token": "t"}
  text = json.dumps({**holder, "count": 3, **changes})
  files.write_text(folder / ".lock" / "000004", text)


def test_a_stale_lock_is_taken_over(memory_bucket, warnings):
  _abandoned(memory_bucket)
  start = time.monotonic()
  lock = _lock(memory_bucket)
  assert time.monotonic() - start >= 0.6
  assert _objects(memory_bucket) == ["000005"]
  waiting, taken = warnings
  assert "process 7 on gone; waiting up to" in waiting
  assert "process 7 on gone, which is dead; this run takes it over" in taken
  lock.check()
  lock.release()


def test_a_dead_process_of_this_machine_is_known(memory_bucket, warnings):
  if not lock_lib._machine():
    pytest.skip("this system does not say what machine it is")
  _abandoned(memory_bucket, machine=lock_lib._machine(), process=2**22 + 1)
  start = time.monotonic()
  _lock(memory_bucket).release()
  assert time.monotonic() - start < 0.5
  assert len(warnings) == 1


def test_a_suspended_run_learns_that_it_was_replaced(
  memory_bucket, monkeypatch
):
  monkeypatch.setattr(lock_lib, "_BEAT", 100.0)  # It does not count again.
  lock = _lock(memory_bucket)
  _abandoned(memory_bucket)
  lock.check()
  monkeypatch.setattr(lock_lib, "_BEAT", 0.01)
  time.sleep(0.03)
  with pytest.raises(UserError, match="was taken over by process 7 on gone"):
    lock.check()
  lock.release()
  assert "000004" in _objects(memory_bucket)


def test_a_damaged_lock_is_taken_over(memory_bucket, warnings):
  files.write_text(memory_bucket / ".lock" / "000001", "{")
  _lock(memory_bucket).release()
  assert "which is dead" in warnings[-1]


def test_an_unreachable_bucket_does_not_end_the_run(
  memory_bucket, warnings, monkeypatch
):
  lock = _lock(memory_bucket)

  def fail(self):
    raise OSError(5, "no answer")

  monkeypatch.setattr(lock_lib.BucketLock, "_numbers", fail)
  end = time.monotonic() + 10
  while not warnings and time.monotonic() < end:
    time.sleep(0.02)
  assert "no answer" in warnings[0]
  time.sleep(3 * lock_lib._BEAT)  # Until the check asks the bucket itself.
  lock.check()
  lock.release()

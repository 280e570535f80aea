"""Tests of damaged and unfinished checkpoints, and of saves that fail."""

import contextlib
import errno
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from etils import epath
from tiny_checkpoints import (
  DAMAGES,
  abstract,
  assert_bitwise_equal,
  flip_bit,
  make_iterator,
  make_state,
)
from tiny_runs import contents

from perceiver_jax.errors import UserError
from perceiver_jax.training.checkpoints import manifest as manifest_lib
from perceiver_jax.training.checkpoints.checkpointer import Checkpointer


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_reported_and_skipped(
  saved, directory, warnings, kind
):
  DAMAGES[kind](directory / "20")
  damaged, intact = contents(directory / "20"), contents(directory / "10")
  state, iterator, expected = make_state(10), make_iterator(), make_iterator()
  next(expected)

  restored = saved.restore_latest(abstract(state), iterator)

  assert (restored.step, restored.extras) == (10, {"seconds": 10.1})
  assert_bitwise_equal(restored.state, state)
  np.testing.assert_array_equal(next(iterator), next(expected))
  (warning,) = warnings
  assert warning.startswith("the checkpoint of step 20 can't be read: ")
  assert "; step 10 is used instead; moved to " in warning
  assert "\n" not in warning
  assert len(warning) < 600
  quarantined = directory.parent / "checkpoints_quarantine" / "20-1"
  assert contents(quarantined) == damaged
  assert contents(directory / "10") == intact
  saved.save(20, make_state(20), iterator, {})
  assert saved.restore_latest(abstract(state)).step == 20


@pytest.mark.parametrize("kind", ["middle array byte", "empty directory"])
def test_a_read_only_checkpointer_changes_nothing(
  saved, directory, open_checkpointer, kind
):
  shutil.copytree(directory / "20", directory / "30.orbax-checkpoint-tmp")
  DAMAGES[kind](directory / "20")
  before = contents(directory.parent)
  reader = open_checkpointer(read_only=True)
  assert reader.restore_latest(abstract(make_state())).step == 10
  with pytest.raises(ValueError, match="read-only"):
    reader.save(40, make_state(), None, {})
  assert contents(directory.parent) == before


def test_a_read_only_checkpointer_makes_no_directory(
  directory, open_checkpointer
):
  reader = open_checkpointer(read_only=True)
  assert reader.restore_latest(abstract(make_state())) is None
  assert not directory.exists()


def test_a_step_damaged_twice_is_moved_to_two_directories(saved, directory):
  for number in (1, 2):
    DAMAGES["manifest byte"](directory / "20")
    saved.restore_latest(abstract(make_state()))
    quarantined = directory.parent / "checkpoints_quarantine" / f"20-{number}"
    assert quarantined.is_dir()
    saved.save(20, make_state(), make_iterator(), {})
    saved.wait()


def test_if_all_checkpoints_are_damaged_none_is_moved(saved, directory):
  DAMAGES["truncated"](directory / "10")
  DAMAGES["manifest missing"](directory / "20")
  before = contents(directory.parent)
  for _ in range(2):  # A second start must not train from scratch either.
    with pytest.raises(UserError) as error:
      saved.restore_latest(abstract(make_state()))
    for part in (str(directory), "step 10: ", "step 20: ", "--workdir"):
      assert part in str(error.value)
    assert "\n" not in str(error.value)
  assert contents(directory.parent) == before


def test_a_missing_or_damaged_step_is_an_error_with_the_others(
  saved, directory
):
  with pytest.raises(UserError, match=r"no checkpoint of step 15.*10, 20"):
    saved.restore(15, abstract(make_state()))
  DAMAGES["truncated"](directory / "20")
  with pytest.raises(UserError, match=r"20 can't be read: .* has step 10;"):
    saved.restore(20, abstract(make_state()))
  assert saved.steps() == [10, 20]


def test_a_damaged_checkpoint_is_never_the_best(open_checkpointer, directory):
  checkpointer = open_checkpointer(best_metric="accuracy")
  for step in (1, 2):
    checkpointer.save(step, make_state(), None, {}, {"accuracy": -step})
  checkpointer.wait()
  DAMAGES["manifest byte"](directory / "1")
  assert checkpointer.best_step() == 2


@pytest.fixture
def fail_to_read(directory, monkeypatch):
  """Returns a function that makes reading a step's manifest fail."""
  path_type = type(epath.Path(directory))
  read_text = path_type.read_text
  failing = {}

  def read(path, *args, **kwargs):
    if number := failing.get(path.parent.parent.name):
      raise OSError(number, os.strerror(number), str(path))
    return read_text(path, *args, **kwargs)

  monkeypatch.setattr(path_type, "read_text", read)
  return lambda step, number: failing.update({str(step): number})


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE])
def test_a_checkpoint_that_cannot_be_read_now_is_not_moved(
  saved, directory, fail_to_read, number
):
  before = contents(directory.parent)
  fail_to_read(20, number)
  reason = f"can't be read now: {os.strerror(number)}; run the same command"
  with pytest.raises(UserError, match=reason):
    saved.restore_latest(abstract(make_state()))
  assert contents(directory.parent) == before
  fail_to_read(20, 0)
  assert saved.restore_latest(abstract(make_state())).step == 20


def test_a_broken_disk_is_damage(saved, directory, fail_to_read):
  fail_to_read(20, errno.EIO)
  assert saved.restore_latest(abstract(make_state())).step == 10
  assert (directory.parent / "checkpoints_quarantine" / "20-1").is_dir()


@pytest.mark.parametrize(
  ("error", "is_damage"),
  [
    (ValueError("NOT_FOUND: no such array"), True),
    (ValueError("DATA_LOSS: corrupt"), True),
    (ValueError("UNKNOWN: x [os_error_code='5']"), True),
    (ValueError("UNKNOWN: x [os_error_code='116']"), False),
    (ValueError("PERMISSION_DENIED: injected 403"), False),
    (ValueError("UNAVAILABLE: injected 503"), False),
    (FileNotFoundError("no metadata"), True),
    (TimeoutError(), False),
  ],
)
def test_an_outage_is_told_from_damage(directory, error, is_damage):
  with contextlib.nullcontext() if is_damage else pytest.raises(UserError):
    manifest_lib.check_is_damage(error, directory)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_the_best_checkpoint_is_kept_while_it_cannot_be_read(
  open_checkpointer, fail_to_read, number
):
  checkpointer = open_checkpointer(keep_latest=1, best_metric="accuracy")
  for step, value in ((1, 0.9), (2, 0.5), (3, 0.6)):
    checkpointer.save(step, make_state(), None, {}, {"accuracy": value})
  fail_to_read(1, number)
  checkpointer.wait()
  assert checkpointer.steps() == [1, 3]
  if number == errno.EACCES:
    with pytest.raises(UserError, match="1 can't be read now"):
      checkpointer.best_step()
  fail_to_read(1, 0)
  assert checkpointer.best_step() == 1


@pytest.fixture
def small_files_only():
  """Returns a function that makes writes past 20 kB fail, as on a full disk."""
  old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

  def restrict(on):
    limit = 20_000 if on else soft
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

  yield restrict
  restrict(False)
  signal.signal(signal.SIGXFSZ, old_handler)


def test_a_failed_save_is_reported_once_and_keeps_the_last_checkpoint(
  open_checkpointer, directory, small_files_only
):
  checkpointer = open_checkpointer(keep_latest=1)
  small, large = make_state(width=4), make_state(width=4000)
  checkpointer.save(1, small, make_iterator(), {})
  checkpointer.wait()
  before = contents(directory)
  small_files_only(True)
  checkpointer.save(2, large, make_iterator(), {})
  with pytest.raises(UserError) as error:
    checkpointer.save(3, large, make_iterator(), {})
  assert str(error.value) == (
    f"the checkpoint of step 2 could not be written to {directory}: File too "
    "large; the last good one is step 1; free space there or give another "
    "--workdir"
  )
  checkpointer.wait()  # The error is raised only once.
  small_files_only(False)
  assert contents(directory) == before
  assert open_checkpointer().restore_latest(abstract(small)).step == 1
  checkpointer.save(2, large, make_iterator(), {})
  assert checkpointer.restore_latest(abstract(large)).step == 2


def test_a_save_that_fails_immediately_is_a_user_error(
  open_checkpointer, monkeypatch
):
  checkpointer = open_checkpointer()

  def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

  monkeypatch.setattr(checkpointer._orbax, "save", full)
  with pytest.raises(
    UserError, match="No space left on device; the last good one does not exist"
  ):
    checkpointer.save(1, make_state(), None, {})


def test_a_directory_that_cannot_be_made_is_a_user_error(directory):
  directory.write_text("a file")
  with pytest.raises(UserError, match="File exists; give another --workdir"):
    Checkpointer(directory)


@pytest.mark.parametrize("restore_first", [True, False])
def test_an_unfinished_checkpoint_is_skipped_and_can_be_saved_again(
  saved, directory, open_checkpointer, warnings, restore_first
):
  unfinished = directory / "30.orbax-checkpoint-tmp"
  shutil.copytree(directory / "20", unfinished)
  (unfinished / "state" / "manifest.ocdbt").unlink()
  checkpointer = open_checkpointer()
  assert checkpointer.steps() == [10, 20]
  if restore_first:
    assert checkpointer.restore_latest(abstract(make_state())).step == 20
    assert warnings == [
      "the checkpoint of step 30 was never finished; step 20 is used instead; "
      f"moved to {directory.parent / 'checkpoints_quarantine' / '30-1'}"
    ]
  checkpointer.save(30, make_state(30), make_iterator(), {})
  checkpointer.wait()
  restored = open_checkpointer().restore_latest(abstract(make_state()))
  assert_bitwise_equal(restored.state, make_state(30))


def test_an_unfinished_first_checkpoint_is_skipped(
  directory, open_checkpointer, warnings
):
  (directory / "5.orbax-checkpoint-tmp").mkdir(parents=True)
  assert open_checkpointer().restore_latest(abstract(make_state())) is None
  assert "no checkpoint was finished before" in warnings[0]


TWO_PROCESSES = """
import pathlib
import sys
import jax
import numpy as np
jax.config.update("jax_platforms", "cpu")
folder, process, port = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", 2, process)
sys.path.insert(0, sys.argv[4])
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from perceiver_jax.errors import UserError
from perceiver_jax.training.checkpoints.checkpointer import Checkpointer
from tiny_checkpoints import flip_bit, make_iterator, make_state, truncate

mesh = Mesh(np.array(jax.devices()), ("data",))
whole = np.random.default_rng(0).normal(size=(1024, 64)).astype(np.float32)
split = jax.make_array_from_callback(
  whole.shape, NamedSharding(mesh, PartitionSpec("data")), whole.__getitem__
)
# Orbax divides replicated arrays among the processes if 4 divides an axis.
state = make_state(width=41)._replace(net_state=split)
iterator = make_iterator()
abstract = jax.tree.map(
  lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
)
next(iterator)
checkpointer = Checkpointer(folder, keep_latest=2)
for step in (1, 2, 3):
  checkpointer.save(step, state, iterator, {"step": step})
checkpointer.wait()
multihost_utils.sync_global_devices("old checkpoints are removed")
assert checkpointer.steps() == [2, 3]
expected = next(iterator)
if process == 0:  # Only the other process reads its half of `split`.
  truncate(pathlib.Path(folder) / "3", "state/ocdbt.process_1/d/*")
multihost_utils.sync_global_devices("truncated")
restored = checkpointer.restore_latest(abstract, iterator)
assert restored.step == 2 and checkpointer.steps() == [2]
np.testing.assert_array_equal(next(iterator), expected)
for a, b in zip(jax.tree.leaves(restored.state), jax.tree.leaves(state)):
  a, b = a.addressable_data(0), b.addressable_data(0)
  assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
if process == 1:  # All processes read this file.
  flip_bit(pathlib.Path(folder) / "2" / "extras" / "metadata", 12)
multihost_utils.sync_global_devices("flipped")
try:
  checkpointer.restore_latest(abstract, iterator)
except UserError as error:
  print("refused", error)
checkpointer.close()
"""


@pytest.mark.slow
def test_two_processes_save_and_restore_together(directory, open_checkpointer):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = str(free.getsockname()[1])
  here = pathlib.Path(__file__)
  environment = os.environ | {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    "PYTHONPATH": str(here.parents[3]),
  }
  runs = [
    subprocess.Popen(
      [
        *(sys.executable, "-c", TWO_PROCESSES),
        *(str(directory), str(process), port, str(here.parents[2])),
      ],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for process in (0, 1)
  ]
  outputs = [run.communicate(timeout=120)[0] for run in runs]
  for run, output in zip(runs, outputs, strict=True):
    assert run.returncode == 0, output
    assert "refused no checkpoint in" in output
  assert (directory.parent / "checkpoints_quarantine" / "3-1").is_dir()
  flip_bit(directory / "2" / "extras" / "metadata", 12)  # Undoes the damage.
  iterator = make_iterator()
  split = np.zeros((1024, 64), np.float32)
  shapes = abstract(make_state(width=41)._replace(net_state=split))
  open_checkpointer().restore(2, shapes, iterator)
  assert iterator.get_state()["next_index"] == 1

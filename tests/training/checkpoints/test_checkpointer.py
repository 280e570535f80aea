import errno
import functools
import logging as std_logging
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from perceiver_jax.errors import UserError
from perceiver_jax.training.checkpoints import folder as folder_lib
from perceiver_jax.training.checkpoints.checkpointer import Checkpointer


class State(NamedTuple):
  step: Any
  params: Any
  net_state: Any
  opt_state: Any
  ema_params: Any
  rng: Any


def replicated(num_devices=None):
  devices = np.array(jax.devices()[:num_devices])
  return NamedSharding(Mesh(devices, ("data",)), PartitionSpec())


def make_state(seed=0, width=40, ema=True):
  return jax.device_put(_host_state(seed, width, ema), replicated())


@functools.cache
def _host_state(seed, width, ema):
  rng = np.random.default_rng(seed)
  params = {
    "net/~/lin": {
      "w": jnp.asarray(rng.normal(size=(30, width)), jnp.float32),
      "b": jnp.asarray(rng.normal(size=width), jnp.bfloat16),
    },
    "net/~/empty": {},
  }
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.lamb(optax.constant_schedule(0.1))
  )

  @jax.jit
  def first(params, key):
    grads = jax.tree.map(lambda p: p + 1, params)
    _, opt_state = optimizer.update(grads, optimizer.init(params), params)
    return State(
      step=jnp.int32(7),
      params=params,
      net_state={},
      opt_state=opt_state,
      ema_params=jax.tree.map(lambda p: p * 2, params) if ema else (),
      rng=key,
    )

  return jax.device_get(
    first(params, jax.random.key_data(jax.random.key(seed)))
  )


def abstract(state, num_devices=None):
  sharding = replicated(num_devices)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
  )


def make_iterator():
  dataset = grain.MapDataset.range(100).shuffle(seed=1).repeat().batch(4)
  return iter(dataset.to_iter_dataset())


def assert_bitwise_equal(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def contents(directory):
  files = (p for p in pathlib.Path(directory).rglob("*") if p.is_file())
  return {str(p.relative_to(directory)): p.read_bytes() for p in files}


@pytest.fixture
def directory(tmp_path):
  return tmp_path / "checkpoints"


@pytest.fixture
def open_checkpointer(directory):
  opened = []

  def open_(**kwargs):
    opened.append(Checkpointer(directory, **kwargs))
    return opened[-1]

  yield open_
  for checkpointer in opened:
    checkpointer.close()


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory):
  """Returns a directory with steps 10 and 20 of different states."""
  directory = tmp_path_factory.mktemp("saved") / "checkpoints"
  checkpointer, iterator = Checkpointer(directory), make_iterator()
  for step in (10, 20):
    next(iterator)
    checkpointer.save(step, make_state(step), iterator, {"seconds": step + 0.1})
  checkpointer.close()
  return directory


@pytest.fixture
def saved(saved_once, directory, open_checkpointer):
  """Returns a checkpointer of a copy of `saved_once`."""
  shutil.copytree(saved_once, directory)
  return open_checkpointer()


@pytest.fixture
def warnings_seen(monkeypatch):
  seen = []
  monkeypatch.setattr(
    logging, "warning", lambda message, *args: seen.append(message % args)
  )
  return seen


def damage_arrays(position):
  """Returns a function that flips one byte of the largest file."""

  def damage(step):
    file = max(step.glob("state/**/d/*"), key=lambda f: f.stat().st_size)
    flip(file, int(file.stat().st_size * position))

  return damage


def flip(file, index):
  data = bytearray(file.read_bytes())
  data[index] ^= 1
  file.write_bytes(data)


def truncate(step):
  file = max(step.glob("state/**/d/*"), key=lambda f: f.stat().st_size)
  os.truncate(file, file.stat().st_size // 2)


def swap_arrays(step):
  shutil.rmtree(step / "state")
  shutil.copytree(step.parent / "10" / "state", step / "state")


def swap_position(step):
  file = step / "extras" / "metadata"
  before = file.read_text()
  after = re.sub(r'("next_index": ?)2', r"\g<1>3", before)
  assert after != before
  file.write_text(after)


def empty(step):
  shutil.rmtree(step)
  step.mkdir()


def remove(name):
  return lambda step: (step / name).unlink()


DAMAGES = {
  "first array byte": damage_arrays(0.02),
  "middle array byte": damage_arrays(0.5),
  "late array byte": damage_arrays(0.9),
  "truncated": truncate,
  "intact arrays of another step": swap_arrays,
  "array manifest byte": lambda step: flip(step / "state/manifest.ocdbt", 40),
  "array manifest missing": remove("state/manifest.ocdbt"),
  "manifest byte": lambda step: flip(step / "extras/metadata", 100),
  "manifest missing": remove("extras/metadata"),
  "other data position": swap_position,
  "empty directory": empty,
}


@pytest.mark.parametrize("ema", [True, False])
def test_round_trip_is_bitwise(open_checkpointer, ema):
  state = make_state(ema=ema)
  extras = {"seconds": 0.1 + 0.2, "best": None, "nested": {"a": [1, 2]}}
  writer = open_checkpointer()
  writer.save(7, state, make_iterator(), extras)
  writer.wait()
  restored = open_checkpointer().restore_latest(abstract(state))
  assert (restored.step, restored.extras) == (7, extras)
  assert_bitwise_equal(restored.state, state)


def test_nothing_saved_yet(open_checkpointer, warnings_seen):
  assert open_checkpointer().restore_latest(abstract(make_state())) is None
  assert open_checkpointer().steps() == []
  assert not warnings_seen


def test_data_resumes_at_the_exact_batch(saved):
  reference = make_iterator()
  batches = [next(reference) for _ in range(4)]
  iterator = make_iterator()
  saved.restore(10, abstract(make_state()), iterator)
  np.testing.assert_array_equal(next(iterator), batches[1])
  saved.restore_latest(abstract(make_state()), iterator)
  np.testing.assert_array_equal(next(iterator), batches[2])
  np.testing.assert_array_equal(next(iterator), batches[3])


def test_state_and_position_are_saved_as_of_the_call(open_checkpointer):
  state, iterator = make_state(width=4000), make_iterator()
  expected = jax.tree.map(lambda x: np.array(x), state)
  checkpointer = open_checkpointer()
  checkpointer.save(1, state, iterator, {})
  donate = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  jax.block_until_ready(donate(state))
  next(iterator)
  checkpointer.wait()
  restored = checkpointer.restore(1, abstract(expected), iterator)
  assert_bitwise_equal(restored.state, expected)
  np.testing.assert_array_equal(next(iterator), next(make_iterator()))


@pytest.mark.parametrize(("before", "after"), [(8, 2), (1, 8), (8, 1)])
def test_restores_onto_other_devices(open_checkpointer, before, after):
  if jax.device_count() < 8:
    pytest.skip("needs 8 fake devices")
  state = jax.device_put(make_state(), replicated(before))
  checkpointer = open_checkpointer()
  checkpointer.save(1, state, None, {})
  restored = checkpointer.restore_latest(abstract(state, after)).state
  assert_bitwise_equal(restored, state)
  for leaf in jax.tree.leaves(restored):
    assert leaf.sharding == replicated(after)


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_reported_and_skipped(saved, directory, warnings_seen, kind):
  DAMAGES[kind](directory / "20")
  damaged, intact = contents(directory / "20"), contents(directory / "10")
  state, iterator, expected = make_state(10), make_iterator(), make_iterator()
  next(expected)

  restored = saved.restore_latest(abstract(state), iterator)

  assert (restored.step, restored.extras) == (10, {"seconds": 10.1})
  assert_bitwise_equal(restored.state, state)
  np.testing.assert_array_equal(next(iterator), next(expected))
  (warning,) = warnings_seen
  assert warning.startswith("the checkpoint of step 20 can't be read: ")
  assert "; step 10 is used instead; moved to " in warning
  assert "\n" not in warning
  assert len(warning) < 600
  aside = directory.parent / "checkpoints_quarantine" / "20-1"
  assert contents(aside) == damaged
  assert contents(directory / "10") == intact
  saved.save(20, make_state(20), iterator, {})
  assert saved.restore_latest(abstract(state)).step == 20


@pytest.mark.parametrize("kind", ["middle array byte", "empty directory"])
def test_read_only_changes_nothing(saved, directory, open_checkpointer, kind):
  shutil.copytree(directory / "20", directory / "30.orbax-checkpoint-tmp")
  DAMAGES[kind](directory / "20")
  before = contents(directory.parent)
  reader = open_checkpointer(read_only=True)
  assert reader.restore_latest(abstract(make_state())).step == 10
  with pytest.raises(ValueError, match="read-only"):
    reader.save(40, make_state(), None, {})
  assert contents(directory.parent) == before


def test_read_only_makes_no_directory(directory, open_checkpointer):
  reader = open_checkpointer(read_only=True)
  assert reader.restore_latest(abstract(make_state())) is None
  assert not directory.exists()


def test_a_second_damaged_copy_gets_its_own_name(saved, directory):
  for number in (1, 2):
    DAMAGES["manifest byte"](directory / "20")
    saved.restore_latest(abstract(make_state()))
    aside = directory.parent / "checkpoints_quarantine" / f"20-{number}"
    assert aside.is_dir()
    saved.save(20, make_state(), make_iterator(), {})
    saved.wait()


def test_all_damaged_is_an_error_and_nothing_moves(saved, directory):
  DAMAGES["truncated"](directory / "10")
  DAMAGES["manifest missing"](directory / "20")
  before = contents(directory.parent)
  for _ in range(2):  # a second start must not begin afresh either
    with pytest.raises(UserError) as error:
      saved.restore_latest(abstract(make_state()))
    for part in (str(directory), "step 10: ", "step 20: ", "--workdir"):
      assert part in str(error.value)
    assert "\n" not in str(error.value)
  assert contents(directory.parent) == before


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      lambda s: make_state(width=41),
      r"params\.net/~/lin\.b is bfloat16\[40\] in the checkpoint and "
      r"bfloat16\[41\] in this config",
    ),
    (
      lambda s: s._replace(ema_params=()),
      r"ema_params\.net/~/lin\.b is bfloat16\[40\] in the checkpoint and "
      "absent",
    ),
    (
      lambda s: s._replace(net_state={"mean": s.step}),
      r"net_state\.mean is absent in the checkpoint and int32\[\]",
    ),
    (
      lambda s: s._replace(step=jax.device_put(jnp.uint32(0), replicated())),
      r"step is int32\[\] in the checkpoint and uint32\[\]",
    ),
  ],
)
def test_another_model_is_not_damage(saved, directory, change, message):
  before = contents(directory.parent)
  other = abstract(change(make_state()))
  with pytest.raises(UserError, match=message):
    saved.restore_latest(other)
  with pytest.raises(UserError, match=message):
    saved.restore(10, other)
  assert contents(directory.parent) == before


def test_containers_without_leaves_do_not_matter(saved):
  state = make_state(20)._replace(net_state={"new": {}})
  assert_bitwise_equal(saved.restore_latest(abstract(state)).state, state)


def test_another_data_pipeline_is_not_damage(saved, directory):
  class Other:
    def set_state(self, state):
      raise ValueError("expected 2 workers")

  with pytest.raises(UserError, match="data pipeline: expected 2 workers"):
    saved.restore_latest(abstract(make_state()), Other())
  assert saved.steps() == [10, 20]


def test_restores_a_chosen_step(saved, directory):
  with pytest.raises(UserError, match=r"no checkpoint of step 15.*10, 20"):
    saved.restore(15, abstract(make_state()))
  DAMAGES["truncated"](directory / "20")
  with pytest.raises(UserError, match=r"20 can't be read: .* has step 10;"):
    saved.restore(20, abstract(make_state()))
  assert saved.steps() == [10, 20]


@pytest.mark.parametrize(
  ("mode", "best", "kept"), [("max", 2, [2, 5, 6]), ("min", 1, [1, 5, 6])]
)
def test_keeps_the_latest_and_the_best(open_checkpointer, mode, best, kept):
  options = {"best_metric": "accuracy", "best_mode": mode}
  checkpointer = open_checkpointer(**options)
  state = make_state()
  values = [0.1, 0.9, float("nan"), None, 0.2, 0.3]
  for step, value in enumerate(values, start=1):
    metrics = None if value is None else {"accuracy": value}
    checkpointer.save(step, state, None, {"step": step}, metrics)
  checkpointer.wait()
  assert checkpointer.steps() == kept
  reopened = open_checkpointer(**options)
  assert reopened.best_step() == best
  assert reopened.restore_best(abstract(state)).extras == {"step": best}
  better = 0.95 if mode == "max" else 0.05
  reopened.save(7, state, None, {}, {"accuracy": np.float32(better)})
  reopened.wait()
  assert reopened.steps() == [6, 7]


def test_equal_metrics_keep_the_newest(open_checkpointer):
  checkpointer = open_checkpointer(keep_latest=1, best_metric="accuracy")
  for step in (1, 2):
    checkpointer.save(step, make_state(), None, {}, {"accuracy": 0.5})
  checkpointer.save(3, make_state(), None, {})
  checkpointer.wait()
  assert checkpointer.steps() == [2, 3]


def test_no_best_is_an_error(saved):
  with pytest.raises(UserError, match="no checkpoint with the metric"):
    saved.restore_best(abstract(make_state()))


def test_damaged_checkpoint_is_never_the_best(open_checkpointer, directory):
  checkpointer = open_checkpointer(best_metric="accuracy")
  for step in (1, 2):
    checkpointer.save(step, make_state(), None, {}, {"accuracy": -step})
  checkpointer.wait()
  DAMAGES["manifest byte"](directory / "1")
  assert checkpointer.best_step() == 2


def test_older_is_deleted_only_when_the_newer_is_complete(open_checkpointer):
  checkpointer = open_checkpointer(keep_latest=1)
  checkpointer.save(1, make_state(), None, {})
  checkpointer.wait()
  checkpointer.save(2, make_state(), None, {})
  assert 1 in checkpointer.steps()
  checkpointer.wait()
  assert checkpointer.steps() == [2]


def test_save_succeeds_if_an_old_checkpoint_cannot_be_deleted(
  open_checkpointer, directory, warnings_seen, monkeypatch
):
  path_type = type(epath.Path(directory))
  rmtree = path_type.rmtree

  def refuse_step_1(path, *args, **kwargs):
    if path.name == "1":
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    rmtree(path, *args, **kwargs)

  monkeypatch.setattr(path_type, "rmtree", refuse_step_1)
  checkpointer = open_checkpointer(keep_latest=1)
  for step in (1, 2, 3):
    checkpointer.save(step, make_state(), None, {})
  checkpointer.wait()
  assert checkpointer.steps() == [1, 3]
  message = f"can't remove the old checkpoint {directory / '1'}: "
  assert warnings_seen == [f"{message}Permission denied"] * 2


def test_saving_a_step_again_changes_nothing(saved, directory):
  before = contents(directory)
  saved.save(20, make_state(99), make_iterator(), {})
  saved.wait()
  assert contents(directory) == before


@pytest.fixture
def small_files_only():
  """Returns a function that makes writes beyond 20 kB fail."""
  old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

  def restrict(on):
    limit = 20_000 if on else soft
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

  yield restrict
  restrict(False)
  signal.signal(signal.SIGXFSZ, old_handler)


def test_failed_save(open_checkpointer, directory, small_files_only):
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
  checkpointer.wait()  # the error is raised once only
  small_files_only(False)
  assert contents(directory) == before
  assert open_checkpointer().restore_latest(abstract(small)).step == 1
  checkpointer.save(2, large, make_iterator(), {})
  assert checkpointer.restore_latest(abstract(large)).step == 2


def test_save_that_fails_at_once(open_checkpointer, monkeypatch):
  checkpointer = open_checkpointer()

  def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

  monkeypatch.setattr(checkpointer._orbax, "save", full)
  with pytest.raises(
    UserError, match="No space left on device; the last good one does not exist"
  ):
    checkpointer.save(1, make_state(), None, {})


def test_directory_that_cannot_be_made(directory):
  directory.write_text("a file")
  with pytest.raises(UserError, match="File exists; give another --workdir"):
    Checkpointer(directory)


@pytest.mark.parametrize("restore_first", [True, False])
def test_killed_while_saving(
  saved, directory, open_checkpointer, warnings_seen, restore_first
):
  unfinished = directory / "30.orbax-checkpoint-tmp"
  shutil.copytree(directory / "20", unfinished)
  (unfinished / "state" / "manifest.ocdbt").unlink()
  checkpointer = open_checkpointer()
  assert checkpointer.steps() == [10, 20]
  if restore_first:
    assert checkpointer.restore_latest(abstract(make_state())).step == 20
    assert warnings_seen == [
      "the checkpoint of step 30 was never finished; step 20 is used instead; "
      f"moved to {directory.parent / 'checkpoints_quarantine' / '30-1'}"
    ]
  checkpointer.save(30, make_state(30), make_iterator(), {})
  checkpointer.wait()
  restored = open_checkpointer().restore_latest(abstract(make_state()))
  assert_bitwise_equal(restored.state, make_state(30))


def test_killed_in_the_first_save(directory, open_checkpointer, warnings_seen):
  (directory / "5.orbax-checkpoint-tmp").mkdir(parents=True)
  assert open_checkpointer().restore_latest(abstract(make_state())) is None
  assert "no checkpoint was finished before" in warnings_seen[0]


def test_relative_directory(tmp_path, monkeypatch):
  (tmp_path / "elsewhere").mkdir()
  monkeypatch.chdir(tmp_path)
  checkpointer = Checkpointer("run/checkpoints")
  monkeypatch.chdir(tmp_path / "elsewhere")
  checkpointer.save(1, make_state(), None, {})
  checkpointer.close()
  assert (tmp_path / "run" / "checkpoints" / "1").is_dir()


def test_remote_directory_is_left_as_given():
  folder = folder_lib.CheckpointFolder("gs://b/c", read_only=True)
  assert str(folder / 3) == "gs://b/c/3"


@pytest.mark.parametrize(
  "options", [{"keep_latest": 0}, {"keep_best": -1}, {"best_mode": "most"}]
)
def test_options_out_of_range(directory, options):
  with pytest.raises(UserError, match="keep_latest >= 1"):
    Checkpointer(directory, **options)


def test_orbax_is_quiet_but_its_warnings_are_not(open_checkpointer):
  records = []
  handler = std_logging.Handler()
  handler.emit = records.append
  logger, verbosity = logging.get_absl_logger(), logging.get_verbosity()
  logger.addHandler(handler)
  logging.set_verbosity(logging.INFO)
  try:
    checkpointer = open_checkpointer()
    checkpointer.save(1, make_state(), make_iterator(), {})
    checkpointer.wait()
    logger.handle(
      logger.makeRecord("absl", 30, "/x/orbax/y.py", 1, "careful", (), None)
    )
  finally:
    logger.removeHandler(handler)
    logging.set_verbosity(verbosity)
  assert [record.getMessage() for record in records] == ["careful"]


TWO_PROCESSES = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
folder, process, port = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", 2, process)
sys.path.insert(0, sys.argv[4])
from jax.experimental import multihost_utils
from test_checkpointer import *

state, iterator = make_state(), make_iterator()
next(iterator)
checkpointer = Checkpointer(folder, keep_latest=2)
for step in (1, 2, 3):
  checkpointer.save(step, state, iterator, {"step": step})
checkpointer.wait()
multihost_utils.sync_global_devices("superseded ones are removed")
assert checkpointer.steps() == [2, 3]
expected = next(iterator)
truncated = pathlib.Path(folder) / "3"
if process == 0:
  truncate(truncated)
multihost_utils.sync_global_devices("truncated")
restored = checkpointer.restore_latest(abstract(state), iterator)
assert restored.step == 2 and checkpointer.steps() == [2]
np.testing.assert_array_equal(next(iterator), expected)
for a, b in zip(jax.tree.leaves(restored.state), jax.tree.leaves(state)):
  a, b = a.addressable_data(0), b.addressable_data(0)
  assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
if process == 1:  # what all of them read
  flip(pathlib.Path(folder) / "2" / "extras" / "metadata", 12)
multihost_utils.sync_global_devices("flipped")
try:
  checkpointer.restore_latest(abstract(state), iterator)
except UserError as error:
  print("refused", error)
checkpointer.close()
"""


@pytest.mark.slow
def test_two_processes(directory, open_checkpointer):
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
        *(str(directory), str(process), port, str(here.parent)),
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
  flip(directory / "2" / "extras" / "metadata", 12)  # back to what it was
  iterator = make_iterator()
  open_checkpointer().restore(2, abstract(make_state()), iterator)
  assert iterator.get_state()["next_index"] == 1

"""Tests of the files that describe a run, and of checks for later starts."""

import errno
import json
import math
import re
import shutil
import subprocess
import sys

import ml_collections
import pytest

from perceiver_jax.errors import UserError
from perceiver_jax.training import versions as versions_lib
from perceiver_jax.training import workdir


def make_config(**changes):
  config = ml_collections.ConfigDict(
    {
      "seed": 0,
      "batch_size": 64,
      "max_seconds": 0.0,
      "precision": "float32",
      "optimizer": {"learning_rate": 0.002, "boundaries": (0.7, 0.85)},
      "log": {"every_steps": 100, "tensorboard": True},
      "checkpoint": {"every_steps": 1000, "keep_latest": 2},
      "data": {
        "num_workers": 0,
        "benchmarks": {"motorcycle": 0},
        "image_shape": (8, 8, 1),
        "source_args": ml_collections.ConfigDict(),
      },
    }
  )
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  return config


METADATA = {"class_names": ("cat", "dog")}


def write_trained(folder, config, metadata=METADATA):
  """Writes the files of a run that has a checkpoint."""
  workdir.write(folder, config, metadata)
  (folder / "checkpoints" / "1").mkdir(parents=True)


@pytest.fixture
def folder(tmp_path):
  folder = tmp_path / "runs" / "a"
  write_trained(folder, make_config())
  return folder


# Checks that a folder belongs to a config.


def test_new_folder_and_same_config_are_accepted(folder, tmp_path):
  workdir.check_config(tmp_path / "new", make_config())
  assert not (tmp_path / "new").exists(), "checking writes nothing"
  workdir.check_config(folder, make_config())
  workdir.check_config(folder, make_config().to_dict())


@pytest.mark.parametrize(
  ("leaf", "value", "difference"),
  [
    ("seed", 1, "seed is 0 there and 1 here"),
    (
      "precision",
      "bfloat16",
      "precision is 'float32' there and 'bfloat16' here",
    ),
    (
      "optimizer.learning_rate",
      0.1,
      "optimizer.learning_rate is 0.002 there and 0.1 here",
    ),
    (
      "optimizer.boundaries",
      (0.7,),
      "optimizer.boundaries is [0.7, 0.85] there and [0.7] here",
    ),
    (
      "data.source_args.size",
      3,
      "data.source_args.size is absent there and 3 here",
    ),
  ],
)
def test_another_config_is_refused_with_the_difference(
  folder, leaf, value, difference
):
  with pytest.raises(UserError) as error:
    workdir.check_config(folder, make_config(**{leaf: value}))
  message = str(error.value)
  assert message.startswith(f"--workdir={folder} holds a run of another config")
  assert difference in message
  assert "Give another --workdir" in message
  assert "\n" not in message


def test_a_run_without_steps_may_get_another_config_and_data(folder, caplog):
  shutil.rmtree(folder / "checkpoints")
  (folder / "metrics.jsonl").write_text("")
  config, metadata = make_config(seed=1), {"class_names": ("cow",)}
  with caplog.at_level("INFO", "absl"):
    workdir.check_config(folder, config)
  (line,) = caplog.messages
  assert line.endswith(
    "first checkpoint and record: seed is 0 there and 1 here"
  )
  workdir.check_metadata(folder, metadata)
  workdir.write(folder, config, metadata)
  assert workdir.read_config(folder).seed == 1
  # A run that was killed after its first record has no checkpoint either.
  (folder / "metrics.jsonl").write_text('{"step": 1}\n')
  with pytest.raises(UserError, match="seed is 1 there and 0 here"):
    workdir.check_config(folder, make_config())


def test_removed_leaf_is_named(folder):
  config = make_config()
  del config.seed
  with pytest.raises(UserError, match="seed is 0 there and absent here"):
    workdir.check_config(folder, config)


def test_three_of_many_differences_are_shown(folder):
  config = make_config(
    **{"seed": 1, "batch_size": 2, "precision": "x", "data.image_shape": (1,)}
  )
  with pytest.raises(UserError) as error:
    workdir.check_config(folder, config)
  assert str(error.value).count(" there and ") == 3
  assert "; and 1 more. Give" in str(error.value)


@pytest.mark.parametrize(
  "leaf",
  [
    "max_seconds",
    "data_timeout_seconds",
    "shard_optimizer_state",
    "log.every_steps",
    "log.wandb_project",
    "checkpoint.keep_latest",
    "data.num_workers",
    "data.benchmarks.motorcycle",
  ],
)
def test_leaves_that_change_no_result_may_differ(folder, leaf):
  config = make_config(**{leaf: 7})
  workdir.check_config(folder, config)
  workdir.write(folder, config, METADATA)
  stored = json.loads((folder / "config.json").read_text())
  assert stored == json.loads(json.dumps(config.to_dict()))


def test_only_whole_names_of_leaves_may_differ(folder):
  for leaf in ("logging", "checkpoint_policy", "data.num_workers_more"):
    with pytest.raises(UserError, match=rf"{re.escape(leaf)} is absent there"):
      workdir.check_config(folder, make_config(**{leaf: 1}))


def _with_leaf(path, value):
  """Returns a config with a leaf in sections that it may not have."""
  config = section = make_config().to_dict()
  *sections, name = path.split(".")
  for part in sections:
    section = section.setdefault(part, {})
  section[name] = value
  return config


PLACES = [
  ("data.source_args.image_folder.directory", "/old", "/new"),
  ("data.source_args.tfds.data_dir", "", "/new"),
  ("data.source_args.files.classes", "a.txt", "b.txt"),
  ("data.corpora.wikipedia.arguments.files.train", "a.txt", "b.txt"),
  ("data.source_args.token_files.eval", "a", "gs://b/a"),
]


@pytest.mark.parametrize(("leaf", "old", "new"), PLACES)
def test_data_may_be_moved(tmp_path, caplog, leaf, old, new):
  workdir.write(tmp_path, _with_leaf(leaf, old), METADATA)
  with caplog.at_level("INFO", "absl"):
    workdir.check_config(tmp_path, _with_leaf(leaf, new))
  (line,) = caplog.messages
  assert f"{leaf} is {old!r} there and {new!r} here" in line


@pytest.mark.parametrize(
  ("leaf", "old", "new"),
  [
    ("data.source_args.rendered.textures", "", "/new"),
    ("data.source_args.tfds.name", "a", "b"),
    ("data.train_split", "train", "test"),
    ("model.directory", "/old", "/new"),
  ],
)
def test_other_data_is_refused(tmp_path, leaf, old, new):
  write_trained(tmp_path, _with_leaf(leaf, old))
  with pytest.raises(UserError, match="holds a run of another config"):
    workdir.check_config(tmp_path, _with_leaf(leaf, new))


def test_only_leaves_of_missing_data_are_named(tmp_path):
  absent = str(tmp_path / "absent")
  sources = {
    "idx": {"directory": absent},
    "image_folder": {"directory": str(tmp_path)},
    "files": {"directory": "gs://bucket/absent"},
    "tfds": {"data_dir": "", "name": absent},
  }
  missing = workdir.missing_places(_with_leaf("data.source_args", sources))
  assert missing == ["data.source_args.idx.directory"]


def test_data_of_another_size_is_refused(tmp_path):
  write_trained(tmp_path, make_config(), {"num_train_examples": 7})
  workdir.check_metadata(tmp_path, {"num_train_examples": 7})
  with pytest.raises(UserError, match=r"has 8 training examples .* had 7"):
    workdir.check_metadata(tmp_path, {"num_train_examples": 8})


def test_checkpoints_without_a_config_are_refused(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  # Another process may have made the folder.
  workdir.check_config(tmp_path, make_config())
  (tmp_path / "checkpoints" / "1").mkdir()
  with pytest.raises(UserError, match=r"has checkpoints but no config\.json"):
    workdir.check_config(tmp_path, make_config())


# Reading the files.


def test_config_round_trip_keeps_tuples(folder):
  config = workdir.read_config(folder)
  assert isinstance(config, ml_collections.ConfigDict)
  assert config.to_dict() == make_config().to_dict()
  assert config.data.image_shape == (8, 8, 1)
  assert isinstance(config.optimizer.boundaries, tuple)
  workdir.check_config(folder, config)


def test_config_round_trip_keeps_infinite_numbers(folder):
  config = make_config(**{"data.sampling_temperature": math.inf})
  workdir.write(folder, config, METADATA)
  assert workdir.read_config(folder).data.sampling_temperature == math.inf
  workdir.check_config(folder, config)


def _own_texts(names):
  """Returns the metadata of a run on a user's own texts."""
  return {"tokenizer": "bytes", "own": {"folder": "", "classes": names}}


@pytest.mark.parametrize(
  "of_names", [lambda names: {"class_names": names}, _own_texts]
)
def test_run_resumes_only_with_its_own_classes(tmp_path, of_names):
  folder = tmp_path / "run"
  write_trained(folder, make_config(), of_names(("cat", "dog")))
  for accepted, names in ((folder, ("cat", "dog")), (tmp_path, ("x",))):
    workdir.check_metadata(accepted, of_names(names))
  workdir.check_metadata(folder, {})
  with pytest.raises(UserError, match=r"number 1, 'cow' instead of 'dog'"):
    workdir.check_metadata(folder, of_names(("cat", "cow")))


def test_metadata_is_read_as_it_was_written(folder, tmp_path):
  assert workdir.read_metadata(folder) == {"class_names": ["cat", "dog"]}
  assert workdir.read_metadata(tmp_path) == {}


def test_a_folder_without_a_run_is_a_user_error(tmp_path):
  with pytest.raises(
    UserError, match=rf"--workdir={re.escape(str(tmp_path))} holds no run"
  ):
    workdir.read_config(tmp_path)


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b'{"seed": 0',
    b"\xff\xfe",
    b"[]",
    b"null",
    b"3",
    b'{"a": ' + b"9" * 5000 + b"}",
    b'{"a":' * 100 + b"0" + b"}" * 100,
    b'{"a":' * 100_000,
  ],
)
@pytest.mark.parametrize(
  "read",
  [
    lambda folder: workdir.check_config(folder, make_config()),
    workdir.read_config,
  ],
)
def test_unreadable_json_is_a_user_error(folder, content, read):
  path = folder / "config.json"
  path.write_bytes(content)
  with pytest.raises(UserError) as error:
    read(folder)
  assert str(error.value).startswith(f"{path} can't be read (")
  assert path.read_bytes() == content


@pytest.mark.parametrize("content", ["{}", '{"model": 3, "data": {}}'])
def test_a_config_without_its_sections_is_refused(tmp_path, content):
  (tmp_path / "config.json").write_text(content)
  with pytest.raises(UserError, match="has no section"):
    workdir.read_config(tmp_path, "data", "model")


def test_a_config_with_a_dot_in_a_name_is_refused(tmp_path):
  (tmp_path / "config.json").write_text('{"a.b": 3}')
  with pytest.raises(UserError, match="is not the config of a run"):
    workdir.read_config(tmp_path)


@pytest.mark.parametrize("names", [3, "ab", [1, 2], {"a": 1}, None])
def test_class_names_that_are_no_names_are_refused(tmp_path, names):
  for metadata in ({"class_names": names}, _own_texts(names)):
    (tmp_path / "task.json").write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="not a list of names"):
      workdir.read_metadata(tmp_path)


def test_a_workdir_is_locked_until_its_process_ends(tmp_path, caplog):
  folder = tmp_path / "run"
  code = (
    "import pathlib, sys, time; from perceiver_jax.training import workdir\n"
    "with workdir.locked(pathlib.Path(sys.argv[1])):\n"
    "  print('locked', flush=True); time.sleep(100)"
  )
  other = subprocess.Popen(
    [sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True
  )
  try:
    assert other.stdout.readline() == "locked\n"
    with (
      pytest.raises(UserError, match=f"another run .process {other.pid} on"),
      workdir.locked(folder),
    ):
      pass
  finally:
    other.kill()
    other.wait()
  with caplog.at_level("WARNING", "absl"), workdir.locked(folder):
    pass
  assert f"took over the lock of process {other.pid} on" in caplog.text
  caplog.clear()
  with caplog.at_level("WARNING", "absl"), workdir.locked(folder):
    pass
  assert not caplog.text


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device"),
    OSError(errno.EFBIG, "File too large"),
  ],
)
def test_a_full_disk_during_a_run_is_a_user_error(tmp_path, error):
  with (
    pytest.raises(UserError, match="free some space and run the same command"),
    workdir.full_disk_explained(tmp_path),
  ):
    raise error
  with pytest.raises(KeyError), workdir.full_disk_explained(tmp_path):
    raise KeyError("x")


def test_a_file_system_without_locks_gets_a_warning(
  tmp_path, monkeypatch, caplog
):
  def flock(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")

  monkeypatch.setattr("fcntl.flock", flock)
  # It may still be running.
  (tmp_path / ".lock").write_text("process 1 on another host")
  with caplog.at_level("WARNING", "absl"), workdir.locked(tmp_path):
    pass
  assert "can't be locked" in caplog.text
  assert "took over" not in caplog.text


def test_file_in_place_of_the_folder_is_a_user_error(tmp_path):
  path = tmp_path / "file"
  path.write_text("mine")
  with pytest.raises(UserError, match="can't be read"):
    workdir.check_config(path, make_config())
  with pytest.raises(
    UserError, match=rf"--workdir={re.escape(str(path))} can't be written to"
  ):
    workdir.write(path, make_config(), METADATA)
  assert path.read_text() == "mine"


def test_a_full_disk_is_a_user_error(tmp_path):
  with (
    pytest.raises(
      UserError,
      match=rf"--workdir={re.escape(str(tmp_path))} can't be written to: no sp",
    ),
    workdir.writing(tmp_path),
  ):
    raise OSError(errno.ENOSPC, "No space left on device")


# Writing the files.


def test_a_run_writes_config_task_and_versions(tmp_path):
  workdir.write(tmp_path, make_config(), METADATA)
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {"config.json", "task.json", "versions.json"}
  versions = json.loads((tmp_path / "versions.json").read_text())
  assert versions == versions_lib.versions()


def test_versions_stay_until_there_are_new_steps(folder):
  (folder / "versions.json").write_text('{"jax": "0.1"}')
  workdir.write(folder, make_config(), METADATA)
  assert workdir.read_versions(folder) == {"jax": "0.1"}
  workdir.write_versions(folder)
  assert workdir.read_versions(folder) == versions_lib.versions()
  (folder / "versions.json").unlink()
  assert workdir.read_versions(folder) == versions_lib.versions()


def test_versions_list_packages_and_devices():
  versions = versions_lib.versions()
  assert {"python", "jax", "jaxlib", "dm-haiku", "optax", "platform"} <= {
    *versions
  }
  assert re.fullmatch(r"\d+ x .+", versions["devices"])


def fake_git(monkeypatch, answers):
  def run(command, **_):
    code, text = answers[command[1]]
    return subprocess.CompletedProcess(command, code, stdout=text)

  monkeypatch.setattr(versions_lib.subprocess, "run", run)


@pytest.mark.parametrize(
  ("changed", "commit"), [("", "abc123"), (" M a.py\n", "abc123-dirty")]
)
def test_commit_is_marked_if_code_was_changed(monkeypatch, changed, commit):
  fake_git(
    monkeypatch,
    {
      "ls-files": (0, "versions.py\n"),
      "rev-parse": (0, "abc123\n"),
      "status": (0, changed),
    },
  )
  assert versions_lib.versions()["commit"] == commit


def test_outside_its_repository_there_is_no_commit(monkeypatch):
  # In no repository, or installed in a repository of other code.
  for code, commit in ((128, ""), (0, "abc123\n")):
    answers = {"rev-parse": (code, commit), "status": (code, "")}
    fake_git(monkeypatch, {"ls-files": (1, ""), **answers})
    assert "commit" not in versions_lib.versions()

  def missing(*_, **__):
    raise FileNotFoundError

  monkeypatch.setattr(versions_lib.subprocess, "run", missing)
  assert "commit" not in versions_lib.versions()

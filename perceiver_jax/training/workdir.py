"""Reads and writes the config, task and versions files of a workdir."""

import contextlib
import errno
import fcntl
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections
from absl import logging

from perceiver_jax import files
from perceiver_jax.buckets import lock as lock_lib
from perceiver_jax.data.core.source import check_class_names
from perceiver_jax.errors import UserError
from perceiver_jax.training import versions as versions_lib
from perceiver_jax.training.logs.metric_writers import (
  replace_text,
  write_json,
)

CONFIG_FILE = "config.json"
TASK_FILE = "task.json"
VERSIONS_FILE = "versions.json"
LOCK_FILE = ".lock"
CHECKPOINTS = "checkpoints"
NUM_EXAMPLES = "num_train_examples"

# Leaves that affect only logging, storage, later evaluation and rounding.
_FREE = (
  "log",
  "checkpoint",
  "max_seconds",
  "data_timeout_seconds",
  "shard_optimizer_state",
  "data.num_workers",
  "data.benchmarks",
  "data.eval_stride",
)
# Last parts of the names of leaves that say where data is, and of those that do
# so in the arguments of files of text or of token ids.
_PLACES = ("directory", "data_dir", "classes", "textures")
_PLACES_OF_FILES = (
  "files.train", "files.eval", "token_files.train", "token_files.eval",
)  # fmt: skip
_MAX_DIFFERENCES = 3


def check_config(workdir: Path, config: Mapping[str, Any]) -> None:
  """Checks that a workdir has no training yet, or belongs to this config.

  Raises:
    UserError: it holds another run; the message names differing leaves.
  """
  stored = _read(workdir / CONFIG_FILE)
  if stored is None:
    # Another process of this run may have made the folder already.
    if _has_checkpoints(workdir):
      raise UserError(
        f"--workdir={workdir} has checkpoints but no {CONFIG_FILE}, so they"
        " can't be told to be of this config; give another --workdir"
      )
    return
  mine, theirs = _leaves(_jsonable(config)), _leaves(stored)
  differences = []
  for name in sorted({*mine, *theirs}):
    if mine.get(name) == theirs.get(name) or _free(name):
      continue
    difference = (
      f"{name} is {_show(theirs, name)} there and {_show(mine, name)} here"
    )
    if _moved(name, mine, theirs):
      logging.info("--workdir=%s: data was moved: %s", workdir, difference)
    else:
      differences.append(difference)
  if differences:
    shown = "; ".join(differences[:_MAX_DIFFERENCES])
    more = len(differences) - _MAX_DIFFERENCES
    shown += f"; and {more} more" if more > 0 else ""
    if not _has_training(workdir):
      logging.info(
        "--workdir=%s: replacing the config of a run that stopped before its"
        " first checkpoint and record: %s",
        workdir,
        shown,
      )
      return
    raise UserError(
      f"--workdir={workdir} holds a run of another config: {shown}. Give"
      " another --workdir, or the config of that run to resume it"
    )


def missing_places(config: Mapping[str, Any]) -> list[str]:
  """Returns the leaves that name local data where there is nothing."""
  return [
    name
    for name, place in _leaves(_jsonable(config)).items()
    if _is_place(name)
    and isinstance(place, str)
    and place
    and not files.is_remote(place)
    and not os.path.exists(os.path.expanduser(place))
  ]


def check_metadata(workdir: Path, metadata: Mapping[str, Any]) -> None:
  """Checks that the data of a resumed run is unchanged, as far as is known.

  Args:
    workdir: workdir of the run, or a new one.
    metadata: `Task.metadata()` of the current data, and its number of training
      examples.

  Raises:
    UserError: the class names or the number of training examples differ.
  """
  if not _has_training(workdir):
    return
  known = read_metadata(workdir)
  before, now = _class_names(known), _class_names(metadata)
  if None not in (before, now):
    check_class_names(before, now, "the data")
  before, now = known.get(NUM_EXAMPLES), metadata.get(NUM_EXAMPLES)
  if None not in (before, now) and before != now:
    raise UserError(
      f"the data has {now} training examples and the run in"
      f" --workdir={workdir} had {before}; give the same data, or another"
      " --workdir"
    )


def write(
  workdir: Path, config: Mapping[str, Any], metadata: Mapping[str, Any]
) -> None:
  """Creates the workdir and writes the config, metadata and versions.

  Versions that are known stay; see `write_versions`.

  Args:
    workdir: the folder.
    config: config written to `config.json`.
    metadata: written to `task.json`; see `check_metadata`.

  Raises:
    UserError: the folder can't be written to.
  """
  with writing(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    # Leaves may be infinite, which `write_json` would turn into null.
    text = json.dumps(_jsonable(config), indent=2) + "\n"
    replace_text(workdir / CONFIG_FILE, text)
    write_json(workdir / TASK_FILE, metadata)
    if not (workdir / VERSIONS_FILE).exists():
      write_versions(workdir)


def write_versions(workdir: Path) -> None:
  """Writes the current versions, with which steps will be made.

  Raises:
    UserError: the folder can't be written to.
  """
  with writing(workdir):
    write_json(workdir / VERSIONS_FILE, versions_lib.versions())


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[Callable[[], None]]:
  """Creates the workdir if needed, and keeps other runs out of it.

  The system releases the lock when the process ends in any way; `buckets.lock`
  does in a bucket. Of several processes of one run, only the first may call
  this. File systems without locks (some mounts of buckets) only get a warning.

  Yields:
    A function that raises UserError if another run has taken the lock over,
    which can only happen in a bucket.

  Raises:
    UserError: another run uses the workdir, or it can't be written to.
  """
  if files.is_remote(workdir):
    with writing(workdir):
      lock = lock_lib.BucketLock(workdir / LOCK_FILE, f"--workdir={workdir}")
    try:
      yield lock.check
    finally:
      lock.release()
    return
  with writing(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    file = open(workdir / LOCK_FILE, "a+", encoding="utf-8")  # noqa: SIM115
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      raise UserError(
        f"--workdir={workdir} is in use by another run ({file.read(200)}); wait"
        " for it to end, or give another --workdir"
      ) from error
    except OSError as error:
      if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
        raise
      logging.warning(
        "%s can't be locked (%s); take care that no other run uses it",
        workdir,
        error.strerror,
      )
    else:
      file.seek(0)
      if holder := file.read(200):  # It was killed, or its host failed.
        logging.warning(
          "--workdir=%s: took over the lock of %s, which ended without"
          " releasing it",
          workdir,
          holder,
        )
    with writing(workdir):
      file.truncate(0)
      file.write(f"process {os.getpid()} on {platform.node()}")
      file.flush()
    try:
      yield lambda: None
    finally:
      file.truncate(0)


@contextlib.contextmanager
def writing(workdir: Path) -> Iterator[None]:
  """Turns an `OSError` while writing to the workdir into a `UserError`.

  Raises:
    UserError: something could not be written: the disk is full, for example.
  """
  try:
    yield
  except OSError as error:
    reason = error.strerror or type(error).__name__
    raise UserError(
      f"--workdir={workdir} can't be written to: {reason.lower()}; fix that,"
      " or give another --workdir"
    ) from error


@contextlib.contextmanager
def full_disk_explained(workdir: Path) -> Iterator[None]:
  """Turns the errors of a full disk during a run into a `UserError`.

  Raises:
    UserError: there is no space left for the run.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    reason = files.no_space(error)
    if not reason:
      raise
    raise UserError(
      f"--workdir={workdir} can't be written to: {reason}; free some"
      " space and run the same command to resume"
    ) from error


def read_config(workdir: Path, *sections: str) -> ml_collections.ConfigDict:
  """Reads the config of the run in a workdir.

  Args:
    workdir: the folder.
    *sections: names of sections that the caller needs.

  Raises:
    UserError: it holds no run, or its config is damaged.
  """
  stored = _read(workdir / CONFIG_FILE)
  if stored is None:
    raise UserError(
      f"--workdir={workdir} holds no run (there is no {CONFIG_FILE}); give the"
      " --workdir of a training run"
    )
  for section in sections:
    if not isinstance(stored.get(section), dict):
      raise UserError(
        f"{workdir / CONFIG_FILE} has no section {section!r}; restore the file,"
        " or give another --workdir"
      )
  try:
    return ml_collections.ConfigDict(_tuples(stored))
  except ValueError as error:  # The name of a leaf has a dot.
    raise UserError(
      f"{workdir / CONFIG_FILE} is not the config of a run: {error}; restore"
      " the file, or give another --workdir"
    ) from error


def read_metadata(workdir: Path) -> dict[str, Any]:
  """Reads `Task.metadata()` of the run; {} if it is missing.

  Raises:
    UserError: the file is damaged.
  """
  path = workdir / TASK_FILE
  metadata = _read(path) or {}
  names = _class_names(metadata, [])
  if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
    raise UserError(
      f"{path} has class names that are not a list of names; restore the file,"
      " or give another --workdir"
    )
  return metadata


def read_versions(workdir: Path) -> dict[str, Any]:
  """Reads the versions of the run's steps; the current ones if unknown.

  Raises:
    UserError: the file is damaged.
  """
  return _read(workdir / VERSIONS_FILE) or versions_lib.versions()


def _read(path: Path) -> dict[str, Any] | None:
  try:
    content = files.read_json(path)
    if not isinstance(content, dict):
      raise ValueError("not a JSON object")
    return content
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as error:
    raise UserError(
      f"{path} can't be read ({error}); fix it, or give another --workdir"
    ) from error


def _class_names(metadata: Mapping[str, Any], default: Any = None) -> Any:
  """Returns the names of the classes, or the default if there are none.

  Those of a user's own texts are part of the description of their task.
  """
  own = metadata.get("own")
  if isinstance(own, Mapping) and "classes" in own:
    return own["classes"]
  return metadata.get("class_names", default)


def _has_training(workdir: Path) -> bool:
  """Returns whether a workdir has a checkpoint, or a recorded step."""
  metrics = workdir / "metrics.jsonl"
  is_recorded = metrics.exists() and files.size(metrics) > 0
  return is_recorded or _has_checkpoints(workdir)


def _has_checkpoints(workdir: Path) -> bool:
  folder = workdir / CHECKPOINTS
  return folder.is_dir() and any(folder.iterdir())


def _jsonable(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the config after a JSON round trip, with tuples as lists."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  return json.loads(json.dumps(config))


def _tuples(value: Any) -> Any:
  """Converts lists to tuples, because flags can only set tuples."""
  if isinstance(value, dict):
    return {name: _tuples(inner) for name, inner in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _leaves(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
  leaves = {}
  for name, value in config.items():
    if isinstance(value, dict) and value:
      leaves |= _leaves(value, f"{path}{name}.")
    else:
      leaves[path + name] = value
  return leaves


def _show(leaves: Mapping[str, Any], name: str) -> str:
  return repr(leaves[name]) if name in leaves else "absent"


def _free(name: str) -> bool:
  return any(name == free or name.startswith(free + ".") for free in _FREE)


def _moved(
  name: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]
) -> bool:
  """Returns whether a leaf only says where the same data now is.

  A folder instead of none selects other data, but for TFDS's default folder.
  """
  both = mine.get(name), theirs.get(name)
  return _is_place(name) and (all(both) or name.endswith(".tfds.data_dir"))


def _is_place(name: str) -> bool:
  """Returns whether a leaf says where data is."""
  return name.startswith("data.") and name.endswith(
    tuple(f".{place}" for place in (*_PLACES, *_PLACES_OF_FILES))
  )

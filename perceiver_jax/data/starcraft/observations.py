"""Recorded observations: a folder of `.npz` files, or ArrayRecord files.

Both have a `manifest.json` with the names of the unit types and of the actions,
by index. An observation is a dict of arrays as described in `features`. It is
either a file, REPLAY/NAME.npz, or a record of the files that
`scripts.data.prepare_replays` writes.

The test split consists of whole replays: two observations of the same game
resemble each other too much for one to test what was learned from the other.
"""

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from perceiver_jax import files
from perceiver_jax.checks import check_choice
from perceiver_jax.data.core import records
from perceiver_jax.data.core.skip_unreadable import SkipUnreadable
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.starcraft import features
from perceiver_jax.errors import UserError

MANIFEST = "manifest.json"
SPLITS = ("train", "test")
_MAX_BYTES = 2**26  # Of the arrays of an observation.
_KNOWN = dict.fromkeys(
  [feature.name for feature in features.FEATURES] + list(features.TARGETS)
)

_RATIOS = {f.name for f in features.FEATURES if f.values == "0 to 1"}


class Names(NamedTuple):
  """The names of unit types and actions, by index."""

  unit_types: Sequence[str]
  actions: Sequence[str]


class Observations:
  """Recorded observations, read and checked when fetched.

  Args:
    contents: bytes of each file or record, by number.
    numbers: the numbers of the observations.
    names: name of each observation, for errors.
    vocabulary: names of the unit types and the actions.
  """

  in_memory = False
  group_names: tuple[str, ...] = ()

  def __init__(
    self,
    contents: Any,
    numbers: Sequence[int],
    names: Sequence[str],
    vocabulary: Names,
  ):
    self.contents, self._numbers = contents, tuple(numbers)
    self.names = tuple(names)
    self.unit_type_names = tuple(vocabulary.unit_types)
    self.class_names = tuple(vocabulary.actions)
    self.num_classes = len(self.class_names)

  def __len__(self) -> int:
    return len(self._numbers)

  def __getitem__(self, index: int) -> Example:
    """Returns an observation.

    Raises:
      UserError: it is damaged or has an impossible value.
    """
    try:
      contents = self.contents[self._numbers[index]]
      observation = records.decode(contents, _MAX_BYTES)
      check(observation, len(self.unit_type_names), len(self.class_names))
    except UserError as error:
      raise UserError(f"observation {self.names[index]!r}: {error}") from error
    return observation


class ReadableObservations(SkipUnreadable):
  """Observations, unreadable ones replaced by the next.

  Its arguments are those of `SkipUnreadable`.
  """

  group_names: tuple[str, ...] = ()

  @property
  def unit_type_names(self) -> tuple[str, ...]:
    """Returns the name of each type of unit."""
    return self.source.unit_type_names


def observation_files(
  directory: str | os.PathLike[str],
  split: str,
  test_share: float = 0.1,
  max_unreadable_share: float = 0.01,
) -> ReadableObservations:
  """Returns the observations laid out as `directory/REPLAY/*.npz`.

  Args:
    directory: contains a folder per replay, and `manifest.json` with the lists
      of names `unit_types` and `actions`.
    split: "train" or "test".
    test_share: share of the replays that are held out for the test split.
    max_unreadable_share: share of the observations that may be unreadable; a
      higher share is an error once there are more than ten.

  Raises:
    UserError: the directory or its manifest is missing, or has no observations.
  """
  root, _, names = _open(directory, "files")
  loose = sorted(root.glob("*.npz"))
  if loose:
    raise UserError(
      f"{str(loose[0])!r} belongs to no replay; give each replay a folder of"
      f" its own in {str(root)!r}, so that whole replays are held out"
    )
  paths = sorted(root.glob("*/*.npz"))
  if not paths:
    raise UserError(
      f"{str(root)!r} has no file REPLAY/*.npz; set"
      " config.data.source_args.files.directory to a folder that has"
    )
  replays = [path.parent.name for path in paths]
  kept = _of_split(replays, split, test_share)
  observations = Observations(
    _Files(paths),
    kept,
    [str(paths[i].relative_to(root)) for i in kept],
    names,
  )
  return ReadableObservations(observations, max_unreadable_share, "observation")


def observation_shards(
  directory: str | os.PathLike[str],
  split: str,
  test_share: float = 0.1,
  max_unreadable_share: float = 0.01,
) -> ReadableObservations:
  """Returns the observations that `scripts.data.prepare_replays` has written.

  Args:
    directory: its output folder.
    split: "train" or "test".
    test_share: as for `observation_files`.
    max_unreadable_share: as for `observation_files`.

  Raises:
    UserError: the directory is not such a folder, or incomplete.
  """
  root, manifest, names = _open(directory, "shards")
  try:
    counts = [(each["name"], each["observations"])
              for each in manifest["replays"]]  # fmt: skip
    paths = records.listed_files(manifest, root / MANIFEST)
  except (KeyError, TypeError, AttributeError) as error:
    raise UserError(
      f"{str(root / MANIFEST)!r} lists no files of records ({error!r}); give a"
      " folder that scripts.data.prepare_replays has written, or set"
      " config.data.source=files for a folder of .npz files"
    ) from error
  missing = [path for path in paths if not os.path.isfile(path)]
  replays = [name for name, count in counts for _ in range(count)]
  if missing or len(replays) != sum(paths.values()):
    what = (
      f"lacks {missing[0]!r}"
      if missing
      else f"lists {len(replays):,} observations and"
      f" {sum(paths.values()):,} records"
    )
    raise UserError(f"{str(root)!r} {what}; prepare it again")
  kept = _of_split(replays, split, test_share)
  observations = Observations(
    records.Records(paths),
    kept,
    [f"{i} of {replays[i]}" for i in kept],
    names,
  )
  return ReadableObservations(observations, max_unreadable_share, "observation")


def read(path: Path, num_unit_types: int) -> Example:
  """Reads an observation without its targets, to predict a command for it.

  Args:
    path: an `.npz` file.
    num_unit_types: number of unit types.

  Raises:
    UserError: the file can't be read, or has an impossible value.
  """
  try:
    observation = records.decode(_read_bytes(path), _MAX_BYTES)
    none = np.array(features.NONE)
    observation |= dict.fromkeys(features.TARGETS, none)
    check(observation, num_unit_types, num_actions=1)
  except UserError as error:
    raise UserError(f"{str(path)!r}: {error}") from error
  return observation


def check(
  observation: Mapping[str, np.ndarray], num_unit_types: int, num_actions: int
) -> None:
  """Checks the names, types, shapes and values of an observation.

  Args:
    observation: arrays by name.
    num_unit_types: number of unit types.
    num_actions: number of actions.

  Raises:
    UserError: an array is unknown, missing or has an impossible value.
  """
  for name, array in observation.items():
    if name not in _KNOWN:
      raise UserError(f"unknown array {name!r}; there are: {', '.join(_KNOWN)}")
    _check_values(name, array)
  for name in features.REQUIRED:
    array = observation.get(name, np.zeros(0))
    if array.ndim != 1:
      raise UserError(
        f"array {name!r} has shape {array.shape}; give a value per entity"
      )
    if np.isnan(array).any():
      raise UserError(f"array {name!r} has a NaN; every entity has a {name}")
  features.check_targets(observation, num_actions)
  features.encode(observation)  # Checks the shapes.
  for name in ("x", "y"):
    _check_range(name, observation[name], 0, features.MAP_SIZE)
  largest = observation["unit_type"].max(initial=-1)
  if largest >= num_unit_types:
    raise UserError(
      f"array 'unit_type' has {largest}; the manifest names the types 0 to"
      f" {num_unit_types - 1}"
    )


def _check_values(name: str, array: np.ndarray) -> None:
  """Checks the type and the values of one array."""
  if array.dtype.kind not in "biuf":
    raise UserError(f"array {name!r} is {array.dtype}; give numbers")
  if name in features.TARGETS:
    if array.shape or array.dtype.kind not in "iu":
      raise UserError(
        f"array {name!r} is {array.dtype} {array.shape}; give an integer scalar"
      )
    return
  with np.errstate(over="ignore"):
    values = array.astype(np.float32)  # What the model computes with.
  if np.isinf(values).any():
    raise UserError(
      f"array {name!r} has an infinite or too large value; NaN is unknown"
    )
  known = values[~np.isnan(values) & (values != features.NONE)]
  if name in ("unit_type", "alliance") and (known % 1).any():
    raise UserError(f"array {name!r} has fractions; give whole numbers")
  _check_range(name, known, 0, 1 if name in _RATIOS else np.inf)


def _check_range(
  name: str, values: np.ndarray, low: float, high: float
) -> None:
  outside = values[(values < low) | (values > high)]
  if len(outside):
    limit = f"from {low} to {high}" if np.isfinite(high) else f"from {low} on"
    raise UserError(f"array {name!r} has {outside[0]:g}; give values {limit}")


def held_out(replays: Collection[str], share: float) -> frozenset[str]:
  """Returns the names of the replays of the test split.

  They are chosen by a hash of their names, so that the choice depends on
  neither the order nor the contents.

  Raises:
    UserError: one of the splits would be empty.
  """
  digest = lambda name: hashlib.sha256(
    name.encode(errors="surrogatepass")
  ).digest()
  ordered = sorted(set(replays), key=digest)
  count = round(share * len(ordered))
  if share > 0:
    count = max(count, 1)
  if not 0 <= share < 1 or count >= max(len(ordered), 1):
    raise UserError(
      f"test_share={share} of {len(ordered)} replays leaves none to train on;"
      " give a share below 1, and at least two replays"
    )
  return frozenset(ordered[:count])


def _of_split(
  replays: Sequence[str], split: str, test_share: float
) -> list[int]:
  """Returns the numbers of the observations of a split."""
  check_choice(split, SPLITS, "split", "recorded observations")
  tested = held_out(replays, test_share)
  is_test = split == "test"
  return [i for i, name in enumerate(replays) if (name in tested) == is_test]


def _open(
  directory: str | os.PathLike[str], source: str
) -> tuple[Path, Mapping[str, Any], Names]:
  """Returns a folder of observations, its manifest and the names in it."""
  root = files.local_folder(directory)
  if not directory or not (root / MANIFEST).is_file():
    raise UserError(
      f"there is no {str(root / MANIFEST)!r}; set"
      f" config.data.source_args.{source}.directory to a folder of recorded"
      " observations (docs/starcraft.md describes them)"
    )
  manifest = records.read_json(root / MANIFEST)
  return root, manifest, _names(manifest, root / MANIFEST)


def read_names(path: Path) -> Names:
  """Reads the names of a manifest.

  Raises:
    UserError: the file is missing or lacks them.
  """
  return _names(records.read_json(path), path)


def _names(manifest: Any, path: Path) -> Names:
  lists = []
  for key in ("unit_types", "actions"):
    names = manifest.get(key) if isinstance(manifest, dict) else None
    is_list = isinstance(names, list) and all(isinstance(x, str) for x in names)
    if not is_list or not names:
      raise UserError(f"{str(path)!r} has no list of names {key!r}; give one")
    lists.append(names)
  return Names(*lists)


class _Files:
  """The contents of files by number."""

  def __init__(self, paths: Sequence[Path]):
    self._paths = tuple(paths)

  def __getitem__(self, number: int) -> bytes:
    return _read_bytes(self._paths[number])


def _read_bytes(path: Path) -> bytes:
  try:
    with files.open_regular(path) as file:
      contents = file.read(_MAX_BYTES + 1)
  except OSError as error:
    raise UserError(f"can't be read: {error.strerror or error}") from error
  if len(contents) > _MAX_BYTES:
    raise UserError(f"has more than {_MAX_BYTES:,} bytes")
  return contents

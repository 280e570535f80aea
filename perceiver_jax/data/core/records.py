"""Reads and writes prepared examples: ArrayRecord files of arrays.

A record is a zip file of arrays, which has checksums of its parts. Files appear
only when complete.
"""

import hashlib
import io
import json
import math
import os
import threading
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import grain
import numpy as np

from perceiver_jax import files, limits
from perceiver_jax.errors import UserError

_MAX_RECORDS = 2**31  # In a file.
_AGAIN = "remove it and prepare the data again"


class Records:
  """The records of several files as one sequence.

  Files are opened at the first access, in each process anew.

  Args:
    files: number of records in each file, by path.
  """

  def __init__(self, files: Mapping[str, int]):
    self.files = dict(files)
    self._records: Any = None
    self._lock = threading.Lock()

  def __reduce__(self) -> tuple:
    return Records, (self.files,)

  def __len__(self) -> int:
    return sum(self.files.values())

  def __getitem__(self, index: int) -> bytes:
    """Returns a record.

    Raises:
      UserError: a file is damaged.
    """
    try:
      return self._opened()[index]
    except RuntimeError as error:
      raise UserError(
        f"{self.file_of(index)!r} is damaged ({error}); {_AGAIN}"
      ) from error

  def check_files(self) -> None:
    """Raises UserError if a file is damaged or has another number of records.

    The records themselves are not read.
    """
    self._opened()

  def file_of(self, index: int) -> str:
    """Returns the path of the file that holds a record."""
    ends = np.cumsum(list(self.files.values()))
    return list(self.files)[np.searchsorted(ends, index, side="right")]

  def _opened(self) -> Any:
    with self._lock:
      if self._records is None:
        self._records = _open(self.files)
    return self._records


def _open(files: Mapping[str, int]) -> Any:
  """Opens the concatenated records of all files."""
  try:
    records = grain.sources.ArrayRecordDataSource(list(files))
    if len(records) == sum(files.values()):
      return records
  except RuntimeError:
    pass  # The error does not name the file.
  damaged = [path for path in files if _num_records(path) != files[path]]
  raise UserError(
    f"{len(damaged)} of {len(files)} files of records are damaged:"
    f" {', '.join(map(repr, damaged))}; {_AGAIN}"
  )


def _num_records(path: str) -> int:
  """Returns the number of records of a file; -1 if it is damaged."""
  try:
    return len(grain.sources.ArrayRecordDataSource([path]))
  except RuntimeError:
    return -1


def open_split(
  directory: str | os.PathLike[str], split: str, leaf: str, script: str
) -> tuple[dict[str, Any], Records]:
  """Opens a prepared split: SPLIT.json and the files that it lists.

  Args:
    directory: folder of the split.
    split: name of the split.
    leaf: leaf of the config with the directory, for the error.
    script: name of the script that prepares such data, for the error.

  Returns:
    The contents of SPLIT.json, among them `files` and a label for each record,
    `labels`; and the records.

  Raises:
    UserError: the split is missing or incomplete.
  """
  index = files.local_folder(directory) / f"{split}.json"
  if not directory or not index.is_file():
    raise UserError(
      f"there is no {str(index)!r}; set {leaf} to the folder that {script} has"
      " written"
    )
  contents = read_json(index)
  listed = listed_files(contents, index)
  _check_labels(contents, index)
  missing = [path for path in listed if not os.path.isfile(path)]
  if missing:
    raise UserError(
      f"{len(missing)} of {len(listed)} files of {str(index)!r} are missing,"
      f" the first of them {missing[0]!r}; copy them or prepare the split again"
    )
  opened, count = Records(listed), len(contents["labels"])
  if len(opened) != count:
    raise UserError(
      f"{str(index)!r} has {count:,} labels and files of {len(opened):,}"
      " records; prepare the split again"
    )
  return contents, opened


def listed_files(contents: Any, index: Path) -> dict[str, int]:
  """Returns the number of records of each file that a manifest lists, by path.

  Args:
    contents: contents of the manifest, with `files`.
    index: its path; the files lie beside it.

  Raises:
    UserError: it lists no files, or one in another folder.
  """
  listed = contents.get("files") if isinstance(contents, dict) else None
  if not isinstance(listed, dict) or not listed:
    raise UserError(f"{str(index)!r} lists no 'files' of records; {_AGAIN}")
  for name, count in listed.items():
    if not files.is_name(name):
      raise UserError(
        f"{str(index)!r} lists the file {name!r}; files lie in its folder, and"
        f" have names without folders; {_AGAIN}"
      )
    if type(count) is not int or not 1 <= count <= _MAX_RECORDS:
      raise UserError(
        f"{str(index)!r} lists {count!r} records for {name!r}; {_AGAIN}"
      )
  return {str(index.parent / name): count for name, count in listed.items()}


def _check_labels(contents: Mapping[str, Any], index: Path) -> None:
  """Checks the names and labels of a split.

  Raises:
    UserError: one is missing or of another type, or a label has no class.
  """
  for key in ("names", "class_names"):
    names = contents.get(key)
    if not isinstance(names, list) or not all(type(x) is str for x in names):
      raise UserError(f"{str(index)!r} has no list of names {key!r}; {_AGAIN}")
  labels = contents.get("labels")
  if not isinstance(labels, list) or len(labels) != len(contents["names"]):
    raise UserError(
      f"{str(index)!r} has no list 'labels' with a label for each of its"
      f" {len(contents['names']):,} names; {_AGAIN}"
    )
  num_classes = len(contents["class_names"])
  # A clip has a list of labels.
  for label in labels:
    for each in label if isinstance(label, list) else (label,):
      if type(each) is not int or not 0 <= each < num_classes:
        raise UserError(
          f"{str(index)!r} has the label {each!r}, and {num_classes}"
          f" 'class_names'; {_AGAIN}"
        )


def encode(arrays: Mapping[str, np.ndarray]) -> bytes:
  """Encodes arrays as a record, which ArrayRecord files compress."""
  file = io.BytesIO()
  np.savez(file, **arrays)
  return file.getvalue()


def decode(record: bytes, max_bytes: int = 2**31) -> dict[str, np.ndarray]:
  """Decodes the arrays of a record, or of the contents of an `.npz` file.

  Args:
    record: a result of `encode`.
    max_bytes: limit on the size of the arrays.

  Raises:
    UserError: the record is damaged, has Python objects or is too large.
  """
  try:
    with zipfile.ZipFile(io.BytesIO(record)) as file:
      size = sum(member.file_size for member in file.infolist())
    if size > max_bytes:
      raise UserError(
        f"its arrays have {size:,} bytes, and at most {max_bytes:,} are read"
      )
    with np.load(io.BytesIO(record), allow_pickle=False) as file:
      return {name: file[name] for name in file.files}
  except UserError:
    raise
  # NumPy and zipfile raise many kinds of errors on damaged files, EOFError,
  # SyntaxError, NotImplementedError and zlib.error among them.
  except Exception as error:
    raise UserError(f"damaged ({error}); prepare it again") from error


def decode_array(data: bytes) -> np.ndarray:
  """Decodes the array of numbers of an `.npy` file.

  Raises:
    ValueError: it is damaged, or has other values than integers and floats.
  """
  stream = io.BytesIO(data)
  try:
    version = np.lib.format.read_magic(stream)
    read_header = {
      (1, 0): np.lib.format.read_array_header_1_0,
      (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, _, dtype = read_header(stream)
  # NumPy parses a header as Python, which raises many kinds of errors.
  except Exception as error:
    raise ValueError(f"it is not an array of NumPy ({error})") from error
  if dtype.kind not in "fiu":
    raise ValueError(f"it is an array of {dtype}; give integers or floats")
  # Checked before NumPy allocates what the header asks for.
  if len(data) - stream.tell() < math.prod(shape) * dtype.itemsize:
    raise ValueError("it is incomplete")
  stream.seek(0)
  try:
    return np.load(stream, allow_pickle=False)
  except Exception as error:  # If a side is negative, or True.
    raise ValueError(f"it is damaged ({error})") from error


def write_records(path: Path, records: Iterable[bytes]) -> int:
  """Writes an ArrayRecord file, atomically.

  Args:
    path: path of the file; an older one is replaced.
    records: the records; if there are none, no file is written.

  Returns:
    The number of records.
  """
  from array_record.python import array_record_module

  partial = files.partial_path(path)
  count = 0
  try:
    writer = array_record_module.ArrayRecordWriter(str(partial), "group_size:1")
    for record in records:
      writer.write(record)
      count += 1
    writer.close()
    if count:
      os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)
  return count


def write_json(path: Path, value: Any) -> None:
  """Writes a JSON file atomically."""
  files.write_text(path, json.dumps(value))


def read_json(path: Path) -> Any:
  """Reads a JSON file of prepared data.

  Raises:
    UserError: the file is missing, damaged or too large.
  """
  try:
    return files.read_json(path, limits.MAX_INDEX_BYTES)
  except (OSError, ValueError) as error:
    raise UserError(
      f"{str(path)!r} can't be read ({error}); {_AGAIN}"
    ) from error


def checksum(path: Path) -> str:
  """Returns the SHA-256 of a file; "" if it does not exist."""
  if not path.is_file():
    return ""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()

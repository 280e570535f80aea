"""Reads data sets prepared by TensorFlow Datasets (TFDS).

Nothing is downloaded, and TensorFlow is not imported.
"""

import re
import resource
from typing import Any

from perceiver_jax import files
from perceiver_jax.errors import UserError

# Files that may be open besides those of a data set.
_OTHER_FILES = 1024


class Texts:
  """A text feature of a TensorFlow Datasets random-access source."""

  in_memory = False

  def __init__(self, data_source: Any, feature: str = "text"):
    self._data_source = data_source
    self._feature = feature

  def __len__(self) -> int:
    return len(self._data_source)

  def __getitem__(self, index: int) -> str:
    text = fetch(self._data_source, index)[self._feature]
    if isinstance(text, bytes):
      text = text.decode("utf-8", errors="replace")
    return text


def texts(
  name: str, split: str, data_dir: str = "", feature: str = "text"
) -> Texts:
  """Returns the texts of a data set prepared by TFDS, such as C4.

  Args:
    name: "c4/en", "wikipedia/20230601.en" or another with a text feature.
    split: a TFDS split, which may be a slice such as "train[1000:]".
    data_dir: folder of the prepared data set; empty for the default of TFDS.
    feature: the feature that has the text.

  Raises:
    UserError: the data set is unknown, not prepared, or has no text.
  """
  data_source = open_prepared(name, split, data_dir)
  features = dict(data_source.dataset_info.features.items())
  if feature not in features:
    raise UserError(
      f"{name!r} has features {', '.join(sorted(features))}; {feature!r} is"
      " needed; choose another data set"
    )
  return Texts(data_source, feature)


def open_prepared(
  name: str,
  split: str,
  data_dir: str = "",
  decoders: dict[str, Any] | None = None,
) -> Any:
  """Opens a data set prepared by TFDS as a random-access source.

  Args:
    name: a TFDS name; may include config and version.
    split: a TFDS split, which may be a slice.
    data_dir: folder of the prepared data set; empty for the default of TFDS.
    decoders: decoders of some features, in place of the default ones.

  Raises:
    UserError: the data set is unknown, not prepared in the array_record format,
      or lacks the split.
  """
  import tensorflow_datasets
  import tensorflow_datasets.text  # Registers C4, Wikipedia, GLUE.

  where = data_dir or "the default TFDS directory"
  if files.is_remote(data_dir):
    folder = re.split("[/:]", name)[0]
    copy = files.local_folder(f"{data_dir.rstrip('/')}/{folder}")
    data_dir = str(copy.parent)
  try:
    data_source = tensorflow_datasets.data_source(
      name,
      split=split,
      data_dir=data_dir or None,
      download=False,
      decoders=decoders,
    )
  except tensorflow_datasets.core.DatasetNotFoundError as error:
    raise UserError(
      f"TensorFlow Datasets has no {name!r} in {where}; check the name and "
      "data_dir"
    ) from error
  # TFDS raises any of these when a data set is not fully prepared.
  except (NotImplementedError, AssertionError, KeyError, OSError) as error:
    raise UserError(
      f"{name!r} split {split!r} is not prepared in {where}: prepare it once"
      f" with python -m scripts.data.prepare --dataset={name}, which needs"
      " TensorFlow and writes the array_record format, or change data_dir"
    ) from error
  except ValueError as error:
    reason = str(error).strip().splitlines()[0]
    raise UserError(
      f"{name!r} split {split!r} cannot be opened in {where}: {reason}"
    ) from error
  _allow_open_files(len(data_source.dataset_info.splits[split].filepaths))
  return data_source


def fetch(data_source: Any, index: int) -> dict[str, Any]:
  """Reads an example, and names the data set in errors.

  Args:
    data_source: result of `open_prepared`.
    index: index of the example.

  Raises:
    UserError: the file of the example is missing or damaged.
  """
  try:
    return data_source[index]
  except RuntimeError as error:
    name = data_source.dataset_info.name
    raise UserError(
      f"example {index} of {name} cannot be read: {error}; find the"
      " damaged files with python -m scripts.data.prepare --check"
      f" --dataset={name}"
    ) from error


def _allow_open_files(count: int) -> None:
  """Raises the limit of open files of this process and its workers.

  Every file of a data set stays open once it has been read. The training split
  of ImageNet has 1,024, which is also the usual limit.
  """
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  limit = count + _OTHER_FILES
  if hard != resource.RLIM_INFINITY:
    limit = min(limit, hard)
  if soft != resource.RLIM_INFINITY and soft < limit:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))

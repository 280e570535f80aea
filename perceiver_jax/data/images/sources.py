"""Sources of images by name."""

from collections.abc import Callable
from typing import Any

from perceiver_jax.checks import check_choice
from perceiver_jax.data.core.source import Source, make_named
from perceiver_jax.data.images import (
  digits,
  idx,
  image_folder,
  image_list,
  photos,
  tfds,
)

SOURCES: dict[str, Callable[..., Source]] = {
  "digits": digits.digits,
  "digit_pairs": digits.digit_pairs,
  "idx": idx.idx,
  "image_folder": image_folder.image_folder,
  "image_list": image_list.image_list,
  "tfds": tfds.tfds_images,
  "photos": photos.photos,
}


_SPLITS: dict[str, Callable[..., list[str]]] = {
  "idx": idx.idx_splits,
  "image_folder": image_folder.folder_splits,
  "tfds": tfds.tfds_splits,
}


def split_names(name: str, /, **kwargs: Any) -> list[str]:
  """Returns the splits that the source called `name` can have.

  Args:
    name: a key of `SOURCES`.
    **kwargs: arguments of the source, other than the split.

  Raises:
    UserError: there is no such source, or its data is missing.
  """
  check_choice(name, tuple(SOURCES), "source", "the data")
  return _SPLITS[name](**kwargs) if name in _SPLITS else ["train", "test"]


def make_source(name: str, /, **kwargs: Any) -> Source:
  """Makes the source called `name`.

  Args:
    name: a key of `SOURCES`.
    **kwargs: arguments of the source, one of which may be called `name` too.

  Raises:
    UserError: the name or an argument is unknown, or the data is missing.
  """
  return make_named(SOURCES, name, "the data", kwargs)

"""Sources of images by name."""

from collections.abc import Callable
from typing import Any

from perceiver_jax.data.core.source import Source, make_named
from perceiver_jax.data.images import (
  digits,
  image_folder,
  image_list,
  photos,
  tfds,
)

SOURCES: dict[str, Callable[..., Source]] = {
  "digits": digits.digits,
  "digit_pairs": digits.digit_pairs,
  "image_folder": image_folder.image_folder,
  "image_list": image_list.image_list,
  "tfds": tfds.tfds_images,
  "photos": photos.photos,
}


def make_source(name: str, /, **kwargs: Any) -> Source:
  """Makes the source called `name`.

  Args:
    name: a key of `SOURCES`.
    **kwargs: arguments of the source, one of which may be called `name` too.

  Raises:
    UserError: the name or an argument is unknown, or the data is missing.
  """
  return make_named(SOURCES, name, "the data", kwargs)

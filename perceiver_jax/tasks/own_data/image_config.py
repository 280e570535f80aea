"""Completes the config of images of one's own from the data.

`configs/images.py` leaves open what the data decides: its source and splits are
"", the number of classes and the sizes of an image 0. A config that leaves
nothing open stays as it is, and no data is read; so does one without the leaf
`data.max_image_side`.
"""

from typing import Any

import ml_collections
import numpy as np

from perceiver_jax.data.core import splits
from perceiver_jax.data.core.source import Source, warn_of_rare_classes
from perceiver_jax.data.images import sources
from perceiver_jax.errors import UserError

# Images from which the sizes are derived, spread over the data set.
_INSPECTED = 64


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the config with the leaves that follow from the data.

  Warns of classes with fewer than two training images.

  Args:
    config: config of an image task; it is not changed. Open leaves are "" for
      `data.source`, `data.train_split` and `data.eval_split`, and 0 for
      `model.num_classes` and the sizes in `data.image_shape`. Images get at
      most `data.max_image_side` rows and columns.

  Raises:
    UserError: no source, or more than one, is given, or it can't be opened.
  """
  if _is_complete(config):
    return config
  config = config.copy_and_resolve_references()
  data = config.data
  if not data.source:
    data.source = _given_source(data.source_args.to_dict())
  arguments = data.source_args.to_dict().get(data.source, {})
  if not (data.train_split and data.eval_split):
    train, held_out = splits.choose(
      sources.split_names(data.source, **arguments)
    )
    data.train_split = data.train_split or train
    data.eval_split = data.eval_split or held_out
  source = sources.make_source(data.source, split=data.train_split, **arguments)
  if not all(data.image_shape) and len(data.image_shape) == 3:
    shape = _image_shape(source, data.max_image_side)
    data.image_shape = tuple(
      given or own for given, own in zip(data.image_shape, shape, strict=True)
    )
  config.model.num_classes = config.model.num_classes or source.num_classes
  labels = getattr(source, "labels", None)
  if labels is not None:  # Unknown without reading every image.
    warn_of_rare_classes(labels, source.class_names, "images")
  return config


def _is_complete(config: ml_collections.ConfigDict) -> bool:
  data = config.data
  return "max_image_side" not in data or bool(
    data.source
    and data.train_split
    and data.eval_split
    and all(data.image_shape)
    and config.model.num_classes
  )


def _given_source(source_args: dict[str, dict[str, Any]]) -> str:
  """Returns the source whose first argument, its folder or name, is given.

  If none is, a source that has no arguments is taken.
  """
  first = {
    name: next(iter(leaves)) for name, leaves in source_args.items() if leaves
  }
  given = [name for name, leaf in first.items() if source_args[name][leaf]]
  given = given or [name for name in source_args if name not in first]
  if len(given) != 1:
    leaves = ", ".join(
      f"--config.data.source_args.{name}.{leaf}" for name, leaf in first.items()
    )
    raise UserError(
      f"{' and '.join(given) or 'no data'} given; give the images by one of"
      f" {leaves}"
    )
  return given[0]


def _image_shape(source: Source, max_side: int) -> tuple[int, int, int]:
  """Returns height, width and channels that fit some images of the data.

  Images of one size keep it if it is at most `max_side`; others become squares
  of their median short side, or of `max_side` if that is smaller.
  """
  positions = np.linspace(0, len(source) - 1, min(_INSPECTED, len(source)))
  images = [source[int(i)]["image"] for i in positions]
  is_gray = all(np.all(image == image[..., :1]) for image in images)
  channels = 1 if is_gray else 3
  sizes = [image.shape[:2] for image in images]
  if len(set(sizes)) == 1 and max(sizes[0]) <= max_side:
    return (*sizes[0], channels)
  side = min(max_side, int(np.median([min(size) for size in sizes])))
  return side, side, channels

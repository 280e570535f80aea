"""Preprocessing of images for the model.

In training (IO, app. A.1): random crop, flip, RandAugment, resize,
normalization. In evaluation: central crop, resize, normalization.
"""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from perceiver_jax.checks import check_leaf, check_leaf_choice
from perceiver_jax.data.images import codec, rand_augment, resizing, transforms

CROPS = ("center", "inception")


class Preprocessing:
  """Preprocessing of images, for training and evaluation.

  Args:
    shape: height, width and channels of the model's input.
    settings: `data` section of a config, with `normalization`, `resize`,
      `crop_fraction`, `crop`, `flip`, `rand_augment` and `affine`.

  Raises:
    UserError: a setting is unknown or out of range.
  """

  def __init__(self, shape: tuple[int, int, int], settings: Mapping[str, Any]):
    self._shape = shape
    self._settings = settings
    for leaf, choices in (
      ("crop", CROPS),
      ("resize", resizing.RESIZES),
      ("normalization", transforms.NORMALIZATIONS),
    ):
      check_leaf_choice(f"data.{leaf}", settings[leaf], choices)
    fraction = settings["crop_fraction"]
    check_leaf(
      "data.crop_fraction",
      fraction,
      0 < fraction <= 1,
      "more than 0 and at most 1",
    )

  def evaluate(self, image: np.ndarray, *, invert: bool = False) -> np.ndarray:
    """Returns the central part of an image, preprocessed for the model.

    Args:
      image: uint8 [H, W, c], or float32 that is already preprocessed.
      invert: swaps black and white.

    Returns:
      float32 of the model's shape.
    """
    if image.dtype != np.uint8:
      return image
    return transforms.prepare_image(
      image,
      self._shape,
      invert=invert,
      crop_fraction=self._settings["crop_fraction"],
      resize=self._settings["resize"],
      normalization=self._settings["normalization"],
    )

  def evaluation_box(self, image: np.ndarray) -> np.ndarray:
    """Returns the box of the central crop in an image [H, W, c].

    Returns:
      float32 [2, 2]; see `transforms.crop_box`.
    """
    size = image.shape[:2]
    crop = (0, 0, *size)
    if image.dtype == np.uint8:
      crop = transforms.center_crop_box(
        *size, self._shape[:2], self._settings["crop_fraction"]
      )
    return transforms.crop_box(crop, *size)

  def train(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a randomly augmented view of an image [H, W, c]."""
    return self.train_with_box(image, rng)[0]

  def train_with_box(
    self, image: np.ndarray, rng: np.random.Generator
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns a randomly augmented view, and its box in the image.

    The box of a flipped view is in the flipped image.
    """
    settings, box = self._settings, self.evaluation_box(image)
    if image.dtype == np.uint8 and settings["crop"] == "inception":
      size = image.shape[:2]
      crop = transforms.inception_crop(*size, rng)
      box = transforms.crop_box(crop, *size)
      top, left, height, width = crop
      image = image[top : top + height, left : left + width]
    if settings["flip"] and rng.random() < 0.5:
      image = cv2.flip(image, 1).reshape(image.shape)
      box = np.stack([box[:, 0], -box[::-1, 1]], axis=1)
    if image.dtype == np.uint8:
      image = self._augmented(image, rng)
    if any(settings["affine"].values()):
      image = transforms.random_affine(image, rng, **settings["affine"])
    return image, box

  def pixels(self, x: np.ndarray) -> np.ndarray:
    """Returns normalized images [..., C] as uint8, for display."""
    return transforms.to_pixels(x, self._settings["normalization"])

  def _augmented(
    self, image: np.ndarray, rng: np.random.Generator
  ) -> np.ndarray:
    """Applies RandAugment, resizing and normalization."""
    if self._settings["rand_augment"]["num_layers"]:
      image = rand_augment.rand_augment(
        codec.to_channels(image, 3), rng, **self._settings["rand_augment"]
      )
    if self._settings["crop"] == "center":
      return self.evaluate(image)
    height, width, channels = self._shape
    return transforms.normalize(
      resizing.resize_by(
        codec.to_channels(image, channels),
        height,
        width,
        self._settings["resize"],
      ),
      self._settings["normalization"],
    )

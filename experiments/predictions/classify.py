"""predict classify IMAGE ...: the most likely classes and the attention.

Of a model that was trained on several labels per image, all labels above a
threshold.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from experiments.predictions import models, outputs
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.images import codec, transforms
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import image_classification
from perceiver_jax.tasks.image_classification import Prediction
from perceiver_jax.tasks.multilabel_image_classification import (
  THRESHOLD,
  MultilabelImageClassification,
)
from perceiver_jax.training import restore
from perceiver_jax.viz import image_layout

# Preprocessing of the released models in evaluation (IO, app. A.1, and
# DeepMind's code).
_CROP_FRACTION = 224 / 256
_NORMALIZATION = "imagenet"


class _Classifier(NamedTuple):
  """An image classifier with its preprocessing.

  Attributes:
    read: Reads an image file as model input: "image", float32 [H, W, C], and
      "crop_box" if its positions are those in the whole image.
    predict: Predicts the classes of a model input.
    to_pixels: Converts "image" to a uint8 image [H, W, C] for display.
    class_names: Names of the classes by label.
    threshold: Least probability of a label to print; None if each image has
      one label.
  """

  read: Callable[[Path], Example]
  predict: Callable[[Example], Prediction]
  to_pixels: Callable[[np.ndarray], np.ndarray]
  class_names: Sequence[str]
  threshold: float | None


def run(arguments: Sequence[str]) -> None:
  """Prints the classes of images and saves each image next to the attention.

  Args:
    arguments: Paths of image files.

  Raises:
    UserError: No image or no model is given, or one can't be read.
  """
  paths = [Path(p).expanduser() for p in arguments]
  if not paths:
    raise UserError("no image is given; name image files after the flags")
  if models.uses_run():
    classifier = _load_run(flags.FLAGS.checkpoint)
  else:
    classifier = _load_weights(flags.FLAGS.image_size)
  # All images are read first, so that an unreadable one stops the command
  # before any output.
  inputs = [classifier.read(path) for path in paths]
  folder = outputs.output_folder()
  for path, example in zip(paths, inputs, strict=True):
    prediction = classifier.predict(example)
    print(path)
    if classifier.threshold is None:
      show = outputs.print_top_classes
    else:
      show = functools.partial(outputs.print_labels, classifier.threshold)
    show(prediction.probabilities, classifier.class_names)
    pixels = classifier.to_pixels(example["image"])
    print(f"  {_save(folder, path, pixels, prediction.overlay)}")


def _load_run(checkpoint: str) -> _Classifier:
  """Restores a checkpoint of the run in --workdir."""
  config, task, folder = models.saved_run(
    image_classification.ImageClassification, "classify images"
  )
  restored = restore.restore(config, task, folder, checkpoint)
  apply = restore.predictor(restored, return_attention=True)

  def predict(example):
    batch = task.batch_of([example])
    return task.predictions(apply(batch), batch)[0]

  threshold = flags.FLAGS.threshold
  if isinstance(task, MultilabelImageClassification):
    threshold = THRESHOLD if threshold is None else threshold
  elif threshold is not None:
    raise UserError(
      f"--threshold={threshold} is for models of several labels per image; the"
      " run in --workdir has one label per image, so leave it out"
    )
  return _Classifier(
    task.read, predict, task.pixels, task.class_names, threshold
  )


def _load_weights(image_size: int) -> _Classifier:
  """Loads an ImageNet model, to be used with DeepMind's preprocessing."""
  weights = models.load_weights(
    ["classification", "average_and_project"],
    "imagenet_fourier", "imagenet_learned", "imagenet_conv",
  )  # fmt: skip
  if weights.spec["adapter"].get("kind", "image") != "image":
    raise UserError("these weights are of a model that does not take images")
  names = outputs.class_names(weights.spec["num_classes"])
  apply = models.jit_apply(weights, return_attention=True)

  uses_boxes = weights.spec["adapter"].get("coordinates") == "image"

  def read(path):
    image = codec.read_image(path)
    example = {
      "image": transforms.prepare_image(
        image,
        (image_size, image_size, 3),
        crop_fraction=_CROP_FRACTION,
        resize="cubic",
        normalization=_NORMALIZATION,
      )
    }
    if uses_boxes:
      size = image.shape[:2]
      crop = transforms.center_crop_box(*size, (1, 1), _CROP_FRACTION)
      example["crop_box"] = transforms.crop_box(crop, *size)
    return example

  def to_pixels(image):
    return transforms.to_pixels(image, _NORMALIZATION)

  def predict(example):
    batch = {name: value[None] for name, value in example.items()}
    try:
      raw = batch if uses_boxes else batch["image"]
      model_outputs = jax.device_get(apply(raw))
    except ValueError as error:
      raise UserError(
        "the model of these weights does not take color images of"
        f" {image_size} x {image_size} pixels; give the size it was trained at"
        f" with --image_size ({error})"
      ) from error
    # Weights do not say whether their classes exclude each other.
    several = flags.FLAGS.threshold is not None
    activation = jax.nn.sigmoid if several else jax.nn.softmax
    probabilities = np.asarray(activation(model_outputs.logits[0]))
    (overlay,) = image_classification.attention_overlays(
      model_outputs, to_pixels(batch["image"])
    )
    return Prediction(probabilities, overlay)

  return _Classifier(read, predict, to_pixels, names, flags.FLAGS.threshold)


def _save(
  folder: Path, path: Path, pixels: np.ndarray, overlay: np.ndarray
) -> Path:
  """Saves the input next to the attention overlay; returns the path."""
  sheet = image_layout.contact_sheet(
    [pixels, overlay], ["input", "attention"], 2
  )
  target = outputs.unused_path(folder, f"{path.stem}-attention.png")
  with outputs.writing(target):
    target.write_bytes(image_layout.png_bytes(sheet))
  return target

"""Image classifiers for predictions, with their preprocessing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import evaluate_weights
from experiments.predictions import models, outputs
from perceiver_jax import weights as weights_lib
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.images import codec, transforms
from perceiver_jax.errors import UserError
from perceiver_jax.models.modalities import image as image_adapter
from perceiver_jax.tasks import image_classification
from perceiver_jax.tasks.multilabel_image_classification import (
  THRESHOLD,
  MultilabelImageClassification,
)
from perceiver_jax.training import restore

# Preprocessing of the released models in evaluation (IO, app. A.1, and
# DeepMind's code).
_CROP_FRACTION = 224 / 256
_NORMALIZATION = "imagenet"


class ImageModel(NamedTuple):
  """An image classifier with its preprocessing.

  Attributes:
    read: Reads an image file as model input: "image", float32 [H, W, C], and
      "crop_box" if its positions are those in the whole image.
    apply: Returns the outputs for one model input, with attention logits, on
      the host.
    to_pixels: Converts "image" to a uint8 image [H, W, C] for display.
    probabilities: Converts class logits [P] to probabilities.
    class_names: Names of the classes by label.
    threshold: Minimum probability of a label to print; None if each image has
      one label.
  """

  read: Callable[[Path], Example]
  apply: Callable[[Example], Any]
  to_pixels: Callable[[np.ndarray], np.ndarray]
  probabilities: Callable[[np.ndarray], np.ndarray]
  class_names: Sequence[str]
  threshold: float | None


def load(loaded: weights_lib.Weights | None = None) -> ImageModel:
  """Loads the classifier of --weights or of the run in --workdir.

  Args:
    loaded: The weights of --weights, if they are loaded already.

  Raises:
    UserError: No model is given, or it does not classify images.
  """
  exported = models.run_of_weights()
  if models.uses_run() or exported:
    return _load_run(flags.FLAGS.checkpoint, exported)
  return _load_weights(flags.FLAGS.image_size, loaded)


def _load_run(checkpoint: str, exported: Path | None) -> ImageModel:
  """Loads the model of a run, to be used with the run's preprocessing.

  Args:
    checkpoint: Checkpoint of the run in --workdir.
    exported: Folder of a run whose exported weights are loaded instead.
  """
  config, task, folder = models.saved_run(
    image_classification.ImageClassification, "classify images", exported
  )
  task = outputs.rename_classes(config, task)
  if exported:
    _, _, restored = evaluate_weights.load_without_data(folder, config)
  else:
    restored = restore.restore(config, task, folder, checkpoint)
  apply = restore.predictor(restored, return_attention="logits")
  threshold = flags.FLAGS.threshold
  if isinstance(task, MultilabelImageClassification):
    threshold = THRESHOLD if threshold is None else threshold
  elif threshold is not None:
    raise UserError(
      f"--threshold={threshold} is for models of several labels per image; the"
      " run has one label per image, so leave it out"
    )
  return ImageModel(
    task.read,
    lambda example: apply(task.batch_of([example])),
    task.pixels,
    lambda logits: np.asarray(task.probabilities(logits)),
    task.class_names,
    threshold,
  )


def _load_weights(
  image_size: int, loaded: weights_lib.Weights | None
) -> ImageModel:
  """Loads an ImageNet model, to be used with DeepMind's preprocessing."""
  weights = models.load_weights(
    ["classification", "average_and_project"],
    "imagenet_fourier", "imagenet_learned", "imagenet_conv",
    loaded=loaded,
  )  # fmt: skip
  if weights.spec["adapter"].get("kind", "image") != "image":
    raise UserError("these weights are of a model that does not take images")
  seed = weights.spec["adapter"].get("permutation_seed", 0)
  model = models.jit_apply(weights, return_attention="logits")

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

  def apply(example):
    batch = {name: value[None] for name, value in example.items()}
    try:
      raw = batch if uses_boxes else batch["image"]
      model_outputs = jax.device_get(model(raw))
    except ValueError as error:
      raise UserError(
        "the model of these weights does not take color images of"
        f" {image_size} x {image_size} pixels; give the size it was trained at"
        " with --image_size, or the folder of its run with --workdir"
        f" ({error})"
      ) from error
    attention = [
      image_adapter.unpermute(each, seed)
      for each in model_outputs.encoder_attention
    ]
    return model_outputs._replace(encoder_attention=tuple(attention))

  # Weights do not say whether their classes exclude each other.
  threshold = flags.FLAGS.threshold
  activation = jax.nn.softmax if threshold is None else jax.nn.sigmoid
  return ImageModel(
    read,
    apply,
    lambda image: transforms.to_pixels(image, _NORMALIZATION),
    lambda logits: np.asarray(activation(logits)),
    outputs.class_names(weights.spec["num_classes"]),
    threshold,
  )

"""predict classify PICTURE ...: the likeliest classes, and where it looked."""

from collections.abc import (
  Callable,
  Sequence,
)
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from experiments import launch
from experiments.predictions import source
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import image_classification
from perceiver_jax.tasks.image_classification import Prediction

# The released models' input in evaluation (IO, app. A.1, and authors' code).
_CROP_FRACTION = 224 / 256
_NORMALIZATION = "imagenet"


class _Classifier(NamedTuple):
  """A model with all it needs to classify pictures.

  Attributes:
    read: an image file to float32 [H, W, C] as the model takes it.
    predict: that to what the model says of it.
    picture: that to uint8 [H, W, C] as people see it.
    class_names: by label.
  """

  read: Callable[[Path], np.ndarray]
  predict: Callable[[np.ndarray], Prediction]
  picture: Callable[[np.ndarray], np.ndarray]
  class_names: Sequence[str]


def run(arguments: Sequence[str]) -> None:
  """Prints the classes of each picture; saves it beside the attention.

  Raises:
    UserError: there is no picture or no model, or one can't be read.
  """
  paths = [Path(p).expanduser() for p in arguments]
  if not paths:
    raise UserError("no picture given; name image files after the flags")
  from_run = flags.FLAGS.workdir and not flags.FLAGS.weights
  classifier = _from_run() if from_run else _from_weights()
  # All are read before the first is shown: a wrong name stops it at once.
  pixels = [classifier.read(path) for path in paths]
  folder = source.output_folder()
  for path, image in zip(paths, pixels, strict=True):
    found = classifier.predict(image)
    print(path)
    show(found.probabilities, classifier.class_names)
    picture = classifier.picture(image)
    print(f"  {_save(folder, path, picture, found.overlay)}")


def show(probabilities: np.ndarray, names: Sequence[str]) -> None:
  """Prints the likeliest classes, each with a bar."""
  best = np.argsort(-probabilities)[: flags.FLAGS.top]
  width = max(len(names[label]) for label in best)
  for label in best:
    bar = "#" * round(20 * probabilities[label])
    print(f"  {names[label]:<{width}}  {probabilities[label]:6.1%}  {bar}")


def _from_run() -> _Classifier:
  """The checkpoint of a run, through its task."""
  from perceiver_jax.training import restore

  config, task, folder = launch.saved_run()
  if not isinstance(task, image_classification.ImageClassification):
    raise UserError(
      f"--workdir={folder} holds a run of {config.task!r}, which does not"
      " classify pictures"
    )
  restored = restore.restore(config, task, folder, flags.FLAGS.checkpoint)
  apply = restore.predictor(restored, return_attention=True)

  def predict(image):
    batch = task.batch_of([image])
    return task.predictions(apply(batch), batch)[0]

  picture = task.pixels
  return _Classifier(task.read, predict, picture, task.class_names)


def _from_weights() -> _Classifier:
  """Weights of an ImageNet model, with the authors' preparation."""
  import jax

  from perceiver_jax.data.images import codec, transforms

  weights = source.load_weights(
    ["classification", "average_and_project"],
    "imagenet_fourier", "imagenet_learned", "imagenet_conv",
  )  # fmt: skip
  if weights.spec["adapter"].get("kind", "image") != "image":
    raise UserError("these weights are of a model that does not take pictures")
  names = source.labels(weights.spec["num_classes"])
  apply = source.jitted(weights, return_attention=True)

  def read(path):
    size = flags.FLAGS.image_size
    return transforms.prepare_image(
      codec.read_image(path),
      (size, size, 3),
      crop_fraction=_CROP_FRACTION,
      resize="cubic",
      normalization=_NORMALIZATION,
    )

  def predict(image):
    try:
      outputs = jax.device_get(apply(image[None]))
    except ValueError as error:
      raise UserError(
        "the model of these weights does not take colour pictures of"
        f" {len(image)} x {len(image)} pixels; give the size it was trained at"
        f" with --image_size ({error})"
      ) from error
    probabilities = np.asarray(jax.nn.softmax(outputs.logits[0]))
    seen = picture(image)[None]
    (overlay,) = image_classification.attention_overlays(outputs, seen)
    return Prediction(probabilities, overlay)

  picture = lambda image: transforms.to_pixels(image, _NORMALIZATION)
  return _Classifier(read, predict, picture, names)


def _save(
  folder: Path, path: Path, picture: np.ndarray, overlay: np.ndarray
) -> Path:
  """Writes what the model saw beside where it looked; returns the file."""
  from perceiver_jax.viz import attention_maps

  sheet = attention_maps.contact_sheet(
    [picture, overlay], ["input", "attention"], 2
  )
  target = source.free_path(folder, f"{path.stem}-attention.png")
  with source.writing(target):
    target.write_bytes(attention_maps.png_bytes(sheet))
  return target

"""Output of predictions: class names, printed classes, and files."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from absl import flags

from experiments import launch
from perceiver_jax import files
from perceiver_jax.errors import UserError


def class_names(num_classes: int) -> Sequence[str]:
  """Returns the names in --labels, or default names.

  The defaults are WordNet ids (from TFDS) for the 1,000 classes of ImageNet,
  and numbers otherwise.

  Raises:
    UserError: The file can't be read, or has another number of lines.
  """
  path = flags.FLAGS.labels
  if not path:
    return _default_class_names(num_classes)
  try:
    lines = files.read_text(files.as_path(path).expanduser()).splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"--labels={path} can't be read: {error}") from error
  names = [line.strip() for line in lines if line.strip()]
  if len(names) != num_classes:
    raise UserError(
      f"--labels={path} has {len(names)} names and the model {num_classes}"
      " classes; give one name per line, in the order of the classes"
    )
  return names


def rename_classes(config: ml_collections.ConfigDict, task: Any) -> Any:
  """Returns the task of a run with the names in --labels, if it is given.

  Args:
    config: Config of the run.
    task: Its task, whose metadata has the names of the classes.

  Raises:
    UserError: See `class_names`.
  """
  # Imports JAX, and scripts import this module for --help.
  from perceiver_jax.tasks import registry

  if not flags.FLAGS.labels:
    return task
  metadata = task.metadata()
  names = tuple(class_names(len(metadata["class_names"])))
  return registry.make_task(config, metadata | {"class_names": names})


def print_top_classes(probabilities: np.ndarray, names: Sequence[str]) -> None:
  """Prints the --top most likely classes, each with a bar."""
  top = np.argsort(-probabilities)[: flags.FLAGS.top]
  _print_probabilities(top, probabilities, names)


def _print_probabilities(
  labels: Sequence[int], probabilities: np.ndarray, names: Sequence[str]
) -> None:
  """Prints a line for each label, with a bar."""
  width = max(len(names[label]) for label in labels)
  for label in labels:
    bar = "#" * round(20 * probabilities[label])
    print(f"  {names[label]:<{width}}  {probabilities[label]:6.1%}  {bar}")


def print_labels(
  threshold: float, probabilities: np.ndarray, names: Sequence[str]
) -> None:
  """Prints all labels of at least a probability, the most likely first."""
  labels = [
    k for k in np.argsort(-probabilities) if probabilities[k] >= threshold
  ]
  if not labels:
    print(f"  no label at or above {threshold:.0%}")
    return
  _print_probabilities(labels, probabilities, names)


def output_folder() -> Path:
  """Creates the folder --output, by default WORKDIR/predictions or predictions.

  Raises:
    UserError: It can't be created.
  """
  values = flags.FLAGS
  default = launch.workdir() if values.workdir else Path()
  folder = files.as_path(values.output or default / "predictions").expanduser()
  with writing(folder):
    folder.mkdir(parents=True, exist_ok=True)
  return folder


@contextlib.contextmanager
def writing(path: Path, advice: str = "another --output") -> Iterator[None]:
  """Converts failures to write `path` to UserErrors.

  Args:
    path: The file or folder that is written in the context.
    advice: Alternative that the user may give.

  Raises:
    UserError: The path can't be written.
  """
  try:
    yield
  except OSError as error:
    raise UserError(
      f"{path} can't be written to ({error.strerror}); give {advice}"
    ) from error


def check_writable(path: Path, advice: str) -> None:
  """Checks that a file can be written, and creates its folder.

  Args:
    path: The file.
    advice: Alternative that the user may give.

  Raises:
    UserError: It can't be written.
  """
  with writing(path, advice):
    path.parent.mkdir(parents=True, exist_ok=True)
    files.check_writable(path)


def save_png(folder: Path, name: str, image: np.ndarray) -> Path:
  """Saves an image, uint8 [H, W, 3], under an unused name.

  Returns:
    Its path.

  Raises:
    UserError: It can't be written.
  """
  # Imports Matplotlib, which takes a third of a second.
  from perceiver_jax.viz import image_layout

  path = unused_path(folder, name)
  with writing(path):
    files.write_bytes(path, image_layout.png_bytes(image))
  return path


def unused_path(folder: Path, name: str) -> Path:
  """Returns a path in a folder, with a number added if the name is in use."""
  path, number = folder / name, 1
  while path.exists():
    number += 1
    stem, dot, suffix = name.partition(".")
    path = folder / f"{stem}-{number}{dot}{suffix}"
  return path


def _default_class_names(num_classes: int) -> Sequence[str]:
  if num_classes == 1000:
    import tensorflow_datasets

    folder = Path(tensorflow_datasets.__file__).parent
    path = folder / "datasets" / "imagenet2012" / "labels.txt"
    if path.exists():
      return path.read_text().split()
  return [f"class {i}" for i in range(num_classes)]

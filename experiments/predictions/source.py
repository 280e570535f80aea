"""The weights a prediction is made with, and where its files go."""

import contextlib
from collections.abc import (
  Callable,
  Iterator,
  Sequence,
)
from pathlib import Path
from typing import Any

from absl import flags

from experiments import launch
from perceiver_jax.errors import UserError


def load_weights(decoder_kinds: Sequence[str], *releases: str) -> Any:
  """The weights of --weights, or of the finished run in --workdir.

  Args:
    decoder_kinds: kinds of decoder that the command can use.
    *releases: models of the authors' that it can use, for the message.

  Returns:
    See `perceiver_jax.weights.Weights`.

  Raises:
    UserError: none are given, or they are of a model for something else.
  """
  # Imported late: --help should not wait for JAX.
  from perceiver_jax import weights
  from perceiver_jax.weights.deepmind import files as deepmind_files

  path = flags.FLAGS.weights or (flags.FLAGS.workdir and launch.workdir())
  if not path:
    raise UserError(
      "no weights are given: --weights takes a file or folder, --workdir a"
      f" finished run; {deepmind_files.download_hint(*releases)}"
    )
  found = weights.load(path)
  kind = found.spec["decoder"]["kind"]
  if kind not in decoder_kinds:
    raise UserError(
      f"{path} holds a model with a {kind!r} decoder; this command needs"
      f" {' or '.join(map(repr, decoder_kinds))}"
    )
  return found


def jitted(weights: Any, **options: bool) -> Callable[..., Any]:
  """The weights' model as `apply(raw, **kwargs)`, compiled when called.

  Args:
    weights: see `load_weights`.
    **options: switches of the model, the same at every call.
  """
  import jax

  from perceiver_jax import weights as weights_lib

  model = weights_lib.transformed(weights.spec)
  variables = jax.device_put((weights.params, weights.state))

  @jax.jit
  def apply(variables, raw, kwargs):
    return model.apply(*variables, None, raw, **kwargs, **options)[0]

  return lambda raw, **kwargs: apply(variables, raw, kwargs)


def labels(num_classes: int) -> Sequence[str]:
  """Names of the classes: of --labels, one a line, or their numbers.

  ImageNet's 1,000 are named by their WordNet ids, which TFDS ships.

  Raises:
    UserError: the file can't be read, or has another number of lines.
  """
  path = flags.FLAGS.labels
  if not path:
    return _imagenet_ids() if num_classes == 1000 else _numbers(num_classes)
  try:
    lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"--labels={path} can't be read: {error}") from error
  names = [line.strip() for line in lines if line.strip()]
  if len(names) != num_classes:
    raise UserError(
      f"--labels={path} has {len(names)} names and the model {num_classes}"
      " classes; give one name a line, in the order of the classes"
    )
  return names


def output_folder() -> Path:
  """The folder of --output, WORKDIR/predictions or ./predictions, made.

  Raises:
    UserError: it can't be made.
  """
  values = flags.FLAGS
  default = launch.workdir() if values.workdir else Path()
  folder = Path(values.output or default / "predictions").expanduser()
  with writing(folder):
    folder.mkdir(parents=True, exist_ok=True)
  return folder


@contextlib.contextmanager
def writing(path: Path, instead: str = "another --output") -> Iterator[None]:
  """Inside, `path` is written.

  Args:
    path: a file or folder.
    instead: what the user may give if it can't be.

  Raises:
    UserError: it could not be.
  """
  try:
    yield
  except OSError as error:
    raise UserError(
      f"{path} can't be written to ({error.strerror}); give {instead}"
    ) from error


def free_path(folder: Path, name: str) -> Path:
  """A path in a folder whose name, or name with a number, is not taken."""
  path, number = folder / name, 1
  while path.exists():
    number += 1
    stem, dot, ending = name.partition(".")
    path = folder / f"{stem}-{number}{dot}{ending}"
  return path


def _imagenet_ids() -> Sequence[str]:
  import tensorflow_datasets

  folder = Path(tensorflow_datasets.__file__).parent
  path = folder / "datasets" / "imagenet2012" / "labels.txt"
  return path.read_text().split() if path.exists() else _numbers(1000)


def _numbers(num_classes: int) -> Sequence[str]:
  return [f"class {i}" for i in range(num_classes)]

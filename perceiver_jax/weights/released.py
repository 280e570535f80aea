"""The six models that the authors released, and where their files are.

The files are pickles of 2021 under CC BY 4.0. They are read without running
anything in them (see `pickles`) and renamed (see `authors`).
"""

import os
from typing import NamedTuple

from perceiver_jax.errors import UserError
from perceiver_jax.models import zoo
from perceiver_jax.weights import (
  authors,
  model,
  pickles,
)

_BASE = "https://storage.googleapis.com/perceiver_io/"


class Release(NamedTuple):
  """A released model.

  Attributes:
    name: In `models.zoo`.
    file: Name of the released file.
  """

  name: str
  file: str

  @property
  def url(self) -> str:
    """Where the authors published it."""
    return _BASE + self.file


RELEASES = (
  Release("imagenet_fourier", "imagenet_fourier_position_encoding.pystate"),
  Release("imagenet_learned", "imagenet_learned_position_encoding.pystate"),
  Release("imagenet_conv", "imagenet_conv_preprocessing.pystate"),
  Release("language_bytes", "language_perceiver_io_bytes.pickle"),
  Release("flow", "optical_flow_checkpoint.pystate"),
  Release("kinetics_784", "video_autoencoding_checkpoint.pystate"),
)


def load(path: str | os.PathLike, name: str = "") -> model.Weights:
  """Reads a file as the authors released it.

  Args:
    path: The file.
    name: Which of `models.zoo` it is of; "" tells it by the shapes.

  Raises:
    UserError: It can't be read, or is of none of these models.
  """
  params, state = pickles.read_variables(path)
  try:
    params, state = authors.convert(params), authors.convert(state)
  except ValueError as error:
    raise UserError(
      f"{path} is not one of the released models: {error}"
    ) from error
  name = name or _recognise(params, path)
  entry = zoo.MODELS[name]
  wanted, wanted_state = model.abstract(entry.spec, entry.example())
  model.check_fit(params, wanted, str(path))
  model.check_fit(state, wanted_state, str(path))
  return model.Weights(zoo.spec(name), params, state)


def where_to_get(*names: str) -> str:
  """A sentence that says where the weights of models are published."""
  files = ", ".join(r.url for r in RELEASES if r.name in names)
  return (
    f"the authors published them at {files}; download one and pass it as"
    " --weights=FILE"
  )


def _recognise(params: model.Tree, path: str | os.PathLike) -> str:
  found = model.shapes(params)
  for release in RELEASES:
    entry = zoo.MODELS[release.name]
    if model.shapes(model.abstract(entry.spec, entry.example())[0]) == found:
      return release.name
  names = ", ".join(r.name for r in RELEASES)
  raise UserError(
    f"{path} has the parameters of none of the released models ({names})"
  )

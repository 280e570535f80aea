"""Fixtures of flags and of weight files of tiny models."""

import pytest
import tiny_weights
from absl import flags
from absl.testing import flagsaver

from perceiver_jax import weights


@pytest.fixture(scope="session")
def weight_file(tmp_path_factory):
  """Returns a function that writes a model of `tiny_weights`, once."""
  folder, made = tmp_path_factory.mktemp("weights"), {}

  def write(kind, *arguments):
    key = (kind, *arguments)
    if key not in made:
      path = folder / f"{len(made)}.safetensors"
      weights.save(path, getattr(tiny_weights, kind)(*arguments))
      made[key] = path
    return made[key]

  return write


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
  """Runs every prediction in its own folder."""
  monkeypatch.chdir(tmp_path)


@pytest.fixture
def flag():
  """Returns a function that sets flags: flag(labels="x")."""
  with flagsaver.flagsaver():
    for name in ("weights", "workdir", "checkpoint", "labels", "output"):
      flags.DEFINE_string(name, "", "")
    flags.DEFINE_string("config", None, "")
    yield lambda **values: [
      setattr(flags.FLAGS, name, str(value)) for name, value in values.items()
    ]

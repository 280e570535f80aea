"""Weight files of tiny models, one of each kind."""

import pytest
import tiny_weights

from perceiver_jax import weights


@pytest.fixture(scope="session")
def weight_file(tmp_path_factory):
  """weight_file("flow", ...) writes that model of `tiny_weights`, once."""
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
  """Every prediction starts in a folder of its own."""
  monkeypatch.chdir(tmp_path)

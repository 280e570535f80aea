"""Fixtures of weight files and of pages made from flags."""

import pytest
import tiny_weights
from absl import flags
from absl.testing import flagsaver

from experiments import demo
from experiments.demo_pages import page
from perceiver_jax import weights


@pytest.fixture
def weight_file(tmp_path):
  """Returns a function that writes a model of `tiny_weights`."""

  def write(kind):
    path = tmp_path / f"{kind}.safetensors"
    weights.save(path, getattr(tiny_weights, kind)())
    return path

  return write


@pytest.fixture
def make_page(tmp_path, monkeypatch):
  """Returns a function that makes the page of a command line."""
  before = flagsaver.save_flag_values()
  demo.define_flags()

  def make(*arguments):
    argv = ["demo.py", *map(str, arguments)]
    monkeypatch.setattr("sys.argv", argv)
    flags.FLAGS.unparse_flags()
    flags.FLAGS(argv)
    folder = tmp_path / "examples"
    folder.mkdir(exist_ok=True)
    return page.make(folder)

  yield make
  flagsaver.restore_flag_values(before)
  flags.FLAGS.mark_as_parsed()

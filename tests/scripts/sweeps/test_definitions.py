"""Sweeps in config files, in both forms."""

import pytest

from perceiver_jax.errors import UserError
from scripts.sweeps import definitions, hyper


@pytest.fixture
def load(tmp_path):
  def load(text, *names):
    path = tmp_path / "config.py"
    path.write_text(text)
    return definitions.load(f"{path}:variant", names)

  return load


def test_get_hyper_and_the_sweep_without_a_name_are_accepted(load):
  text = """
def get_hyper(h):
  rates = h.sweep("config.optimizer.learning_rate", [1, 2])
  both = h.zipit([h.sweep("a", "xy"), h.sweep("b", "zw")])
  return h.chainit([h.product([rates, both]), h.fixed("seed", 3, 1)])

def sweep():
  yield {"c": 1}
"""
  expected = [
    {"optimizer.learning_rate": rate, "a": a, "b": b}
    for rate in (1, 2)
    for a, b in ("xz", "yw")
  ]
  assert load(text, "hyper") == [*expected, {"seed": 3}]
  assert load(text, "sweep") == [{"c": 1}]
  assert load(text, "sweep", "hyper")[0] == {"c": 1} | expected[0]
  with pytest.raises(UserError, match="did you mean 'hyper'"):
    load(text, "hyperr")


def test_lists_become_tuples(load):
  text = """
def sweep():
  yield {"shape": [8, [8, 1]], "name": "a", "pair": (1, 2)}
"""
  (point,) = load(text, "sweep")
  assert point == {"shape": (8, (8, 1)), "name": "a", "pair": (1, 2)}


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: hyper.product([[{"a": 1}], [{"a": 2}]]), "two sweeps set a, to 1"),
    (
      lambda: hyper.zipit([hyper.sweep("a", [1]), hyper.sweep("b", [1, 2])]),
      "1, 2 points",
    ),
  ],
)
def test_sweeps_that_do_not_fit_are_refused(make, message):
  with pytest.raises(UserError, match=message):
    make()

"""Tests of the source of rendered pairs."""

import numpy as np
import pytest

from perceiver_jax.data.flow import sources as flow_sources
from perceiver_jax.errors import UserError

SIZE = (32, 48)


def make(**arguments):
  arguments = {"split": "train", "size": SIZE, "num_train": 10} | arguments
  return flow_sources.make_flow_source("rendered", **arguments)


def test_a_rendered_pair_is_reproducible_and_differs_from_others():
  first, again, held_out = make()[3], make()[3], make(split="test")[3]
  for name, value in first.items():
    np.testing.assert_array_equal(value, again[name])
  assert not np.array_equal(first["flow"], held_out["flow"])
  assert not np.array_equal(first["flow"], make()[4]["flow"])
  assert first["frames"].shape == (2, *SIZE, 3)
  assert first["frames"].dtype == np.uint8
  assert first["flow"].shape == (*SIZE, 2)
  assert first["flow"].dtype == np.float32
  assert first["occluded"].dtype == bool


def test_the_length_of_the_source_can_be_set():
  assert len(make()) == 10
  assert len(make(split="test", num_test=4)) == 4
  assert make()[-1]["flow"].tolist() == make()[9]["flow"].tolist()
  with pytest.raises(IndexError):
    make()[10]


def test_the_scene_can_be_set():
  still = dict.fromkeys(
    [
      *("translation", "rotation", "scale", "shear", "warp_share"),
      *(f"background_{m}" for m in ("translation", "rotation", "scale")),
      "background_shear",
    ],
    0.0,
  )
  pair = make(scene=still)[0]
  np.testing.assert_allclose(pair["flow"], 0, atol=1e-4)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"split": "all"}, "unknown split"),
    ({"size": (8, 64)}, "16 or more"),
    ({"texture_scale": (0.0, 1.0)}, "texture_scale"),
    ({"scene": {"speed": 3}}, "has no speed"),
    ({"pairs": 3}, "wrong arguments.*num_train"),
    ({"num_train": 0}, "empty dataset"),
    ({"num_train": -1}, r"rendered\.num_train is -1; give 1 or more"),
    ({"size": (32.5, 32)}, r"size is \(32\.5, 32\)"),
    ({"texture_scale": (1.0,)}, "texture_scale"),
  ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
  with pytest.raises(UserError, match=message):
    make(**arguments)

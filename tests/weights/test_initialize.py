"""Tests of initializing parameters from other weights."""

import numpy as np
import pytest

from perceiver_jax.models import zoo
from perceiver_jax.weights import initialize, model


def _tree(**shapes):
  rng = np.random.default_rng(1)
  leaves = {
    name.replace("__", "/"): np.float32(rng.normal(size=shape))
    for name, shape in shapes.items()
  }
  return model.unflatten(leaves)


def _weights(name="imagenet_learned", **shapes):
  return model.Weights(zoo.get_spec(name), _tree(**shapes), {})


def test_matching_leaves_are_loaded_and_the_rest_is_reported():
  fresh = _tree(a__w=(2, 3), head__w=(3, 5), new__b=(4,))
  given = _weights(a__w=(2, 3), head__w=(3, 9), old__b=(4,))
  given.params["a"]["w"] += 100
  merged, report = initialize.initialize_from(given, fresh, given.spec)
  np.testing.assert_array_equal(merged["a"]["w"], given.params["a"]["w"])
  np.testing.assert_array_equal(merged["head"]["w"], fresh["head"]["w"])
  np.testing.assert_array_equal(merged["new"]["b"], fresh["new"]["b"])
  assert report.loaded == ["a/w"]
  assert report.initialized == ["head/w", "new/b"]
  assert report.skipped == ["head/w", "old/b"]
  assert report.differences == []
  assert "1 arrays loaded" in report.text()
  assert "2 initialized: head/w, new/b" in report.text()


@pytest.mark.parametrize(
  ("name", "module"),
  [
    ("imagenet_learned", "adapter/positions"),
    ("hip_16", "adapter/positions_image"),
  ],
)
def test_image_positions_are_interpolated_to_another_grid(name, module):
  fresh = _tree(**{f"{module}__embeddings": (64, 3)})
  given = _weights(name, **{f"{module}__embeddings": (16, 3)})
  rows, columns = np.mgrid[0:4, 0:4]
  table = given.params[module]["embeddings"]
  table[:, 0], table[:, 1], table[:, 2] = rows.ravel(), columns.ravel(), 5
  merged, report = initialize.initialize_from(given, fresh, given.spec)
  grid = merged[module]["embeddings"].reshape(8, 8, 3)
  assert report.interpolated == [f"{module}/embeddings"]
  # Pixel centers: fine position i lies at coarse (i + 0.5) / 2 - 0.5.
  inner = (np.arange(2, 6) + 0.5) / 2 - 0.5
  np.testing.assert_allclose(grid[2:6, 3, 0], inner, atol=0.05)
  np.testing.assert_allclose(grid[3, 2:6, 1], inner, atol=0.05)
  np.testing.assert_allclose(grid[..., 2], 5, atol=1e-5)


def test_other_tables_and_nonsquare_grids_keep_their_initial_values():
  fresh = _tree(
    adapter__positions__embeddings=(64, 3), encoder__latents__embeddings=(9, 3)
  )
  given = _weights(
    adapter__positions__embeddings=(15, 3), encoder__latents__embeddings=(4, 3)
  )
  merged, report = initialize.initialize_from(given, fresh, given.spec)
  assert report.loaded == report.interpolated == []
  assert len(report.initialized) == 2
  for module, leaves in fresh.items():
    np.testing.assert_array_equal(
      merged[module]["embeddings"], leaves["embeddings"]
    )


@pytest.mark.parametrize(
  ("name", "other", "shape"),
  [
    # Positions of text are no grid, even if both numbers are squares.
    ("language_bytes", "language_bytes", (16, 3)),
    ("language_bytes", "imagenet_learned", (16, 3)),
    ("imagenet_learned", "imagenet_learned", (16, 4)),
    ("imagenet_learned", "imagenet_learned", (16,)),
    ("imagenet_learned", "imagenet_learned", ()),
  ],
)
def test_other_positions_are_not_interpolated(name, other, shape):
  fresh = _tree(adapter__positions__embeddings=(64, 3))
  given = _weights(name, adapter__positions__embeddings=shape)
  spec = zoo.get_spec(other)
  merged, report = initialize.initialize_from(given, fresh, spec)
  assert report.initialized == ["adapter/positions/embeddings"]
  np.testing.assert_array_equal(
    merged["adapter/positions"]["embeddings"],
    fresh["adapter/positions"]["embeddings"],
  )


def test_settings_without_parameters_are_compared():
  given = _weights(a__w=(1,))
  spec = zoo.get_spec("imagenet_learned")
  spec["encoder"]["gelu"] = "exact"
  spec["encoder"]["num_self_attend_heads"] = 4
  _, report = initialize.initialize_from(given, _tree(a__w=(1,)), spec)
  assert report.differences == [
    "model.encoder.gelu is 'exact' here and 'tanh' in the weights",
    "model.encoder.num_self_attend_heads is 4 here and 8 in the weights",
  ]
  assert "gelu" in report.text()

"""Tests of the generated solids."""

import numpy as np
import pytest

from perceiver_jax.data.points import preprocessing, solids
from perceiver_jax.errors import UserError


def _features(points):
  """Returns how far points are from the axis at each height, and variances."""
  points = preprocessing.normalize(points)
  height, radius = points[:, 2], np.hypot(points[:, 0], points[:, 1])
  bins = np.digitize(height, np.quantile(height, np.linspace(0, 1, 7)[1:-1]))
  rows = [np.quantile(radius[bins == i], (0.1, 0.5, 0.9)) for i in range(6)]
  shape = np.sort(np.linalg.eigvalsh(np.cov(points[:, :2].T)))
  return np.concatenate([*rows, shape, [height.std(), np.ptp(height)]])


def test_examples_depend_on_split_and_index_alone():
  first, second = solids.solids("train"), solids.solids("train")
  backwards = [second[i] for i in (40, 3)]
  for i, example in zip((40, 3), backwards, strict=True):
    np.testing.assert_array_equal(first[i]["points"], example["points"])
  test = solids.solids("test")
  assert len(first) == 16_384
  assert len(test) == 2_048
  assert not np.array_equal(first[3]["points"][:9], test[3]["points"][:9])
  with pytest.raises(IndexError):
    test[2_048]


def test_classes_are_balanced_and_sizes_vary():
  source = solids.solids("train", num_train=160)
  examples = [source[i] for i in range(len(source))]
  counts = np.bincount([e["label"] for e in examples])
  assert counts.tolist() == [10] * len(solids.SOLIDS)
  assert len(source.class_names) == source.num_classes >= 12
  sizes = {len(e["points"]) for e in examples}
  assert min(sizes) < 192 <= max(sizes) <= 512
  for example in examples:
    assert example["points"].dtype == np.float32
    assert np.isfinite(example["points"]).all()


def test_the_splits_have_disjoint_shape_parameters():
  rng = np.random.default_rng(0)
  train, test = (
    np.stack([solids.shape_parameters(split, rng) for _ in range(500)])
    for split in ("train", "test")
  )
  low, high = test.min(), test.max()
  assert not ((train > low) & (train < high)).any()
  for range_of_train in (train.min(0), train.max(0)):
    assert not ((low < range_of_train) & (range_of_train < high)).any()
  assert train.min() < 0.02
  assert train.max() > 0.98


def test_a_class_has_another_shape_than_the_others():
  """A simple classifier on a few features is far better than chance."""
  from sklearn.ensemble import RandomForestClassifier

  def data(split, count):
    source = solids.solids(split, num_train=count, num_test=count)
    examples = [source[i] for i in range(count)]
    features = np.stack([_features(e["points"]) for e in examples])
    return features, np.array([e["label"] for e in examples])

  forest = RandomForestClassifier(50, random_state=0)
  forest.fit(*data("train", 1600))
  accuracy = forest.score(*data("test", 480))
  assert 0.4 < accuracy < 0.98  # Chance is 0.0625.


@pytest.mark.parametrize("name", solids.SOLIDS)
@pytest.mark.parametrize("form", [0.0, 1.0])
def test_surfaces_have_no_holes(name, form):
  profile, _ = solids.SOLIDS[name](form)
  closed = np.allclose(profile[0], profile[-1])
  at_axis = np.allclose(profile[[0, -1], 0], 0, atol=1e-9)
  assert closed or at_axis
  assert profile[:, 0].max() == pytest.approx(1, abs=0.01)


def test_points_are_uniform_on_the_surface():
  """Counts on a cone, whose lateral area and base are known."""
  profile, section = np.array([[0, -1], [1, -1], [0, 1.0]]), None
  angle = 2 * np.pi * np.arange(96) / 96
  section = np.stack([np.cos(angle), np.sin(angle)], 1)
  rng = np.random.default_rng(0)
  points = solids.sample_sections(profile, section, 40_000, rng)
  on_base = np.isclose(points[:, 2], -1)
  # pi r^2 and pi r s, with the slant height s of the square root of 5.
  assert on_base.mean() == pytest.approx(1 / (1 + 5**0.5), abs=0.01)
  for part in (points[on_base], points[~on_base]):
    radius = np.hypot(part[:, 0], part[:, 1])
    # Half of each part's area lies within the radius of 1 over root 2.
    assert (radius < 0.5**0.5).mean() == pytest.approx(0.5, abs=0.02)
    turn = np.histogram(np.arctan2(part[:, 1], part[:, 0]), 8)[0] / len(part)
    np.testing.assert_allclose(turn, 1 / 8, atol=0.01)
  side = points[~on_base]
  np.testing.assert_allclose(
    np.hypot(side[:, 0], side[:, 1]), (1 - side[:, 2]) / 2, atol=1e-3
  )


def test_wrong_splits_and_numbers_are_refused():
  with pytest.raises(UserError, match="train, test"):
    solids.solids("validation")
  with pytest.raises(UserError, match="num_test is 0; give at least 1"):
    solids.solids("test", num_test=0)

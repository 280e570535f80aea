"""Sheets of true and predicted flow."""

import numpy as np

from perceiver_jax.viz import flow_colors, flow_pictures


def row(seed=0, size=(100, 200)):
  rng = np.random.default_rng(seed)
  frames = rng.integers(0, 256, (2, *size, 3), np.uint8)
  truth = np.zeros((*size, 2), np.float32)
  truth[:, size[1] // 2 :] = (6, -8)
  predicted = truth + np.float32([3, 4])
  truth[0, 0] = np.nan
  return flow_pictures.Row(frames, truth, predicted)


def columns(sheet):
  """The five pictures of the first row."""
  starts = [i * 208 for i in range(5)]
  return [sheet[-100:, start : start + 200] for start in starts]


def test_a_row_has_frames_truth_prediction_and_error():
  one = row()
  sheet = flow_pictures.sheet([one])
  assert sheet.dtype == np.uint8
  assert sheet.shape[1:] == (5 * 208 + 96, 3)
  first, second, truth, predicted, error = columns(sheet)
  np.testing.assert_array_equal(first, one.frames[0])
  np.testing.assert_array_equal(second, one.frames[1])
  np.testing.assert_array_equal(truth, flow_colors.flow_to_rgb(one.truth, 10))
  np.testing.assert_array_equal(
    predicted, flow_colors.flow_to_rgb(one.predicted, 10)
  )
  # Half of the longest motion everywhere; unknown is grey.
  assert len(np.unique(error.reshape(-1, 3), axis=0)) == 2
  np.testing.assert_array_equal(error[0, 0], [128] * 3)
  np.testing.assert_array_equal(
    error[5, 5], flow_pictures.heat(np.float64(0.5))
  )


def test_the_wheel_is_beside_it():
  sheet = flow_pictures.sheet([row()])
  np.testing.assert_array_equal(sheet[:96, -96:], flow_colors.wheel(96))


def test_small_pictures_are_enlarged():
  one = row(size=(30, 50))
  sheet = flow_pictures.sheet([one])
  first = sheet[-120:, :200]
  np.testing.assert_array_equal(first[::4, ::4], one.frames[0])
  np.testing.assert_array_equal(first[3::4, 3::4], one.frames[0])


def test_rows_are_below_each_other():
  single = flow_pictures.sheet([row(0)])
  double = flow_pictures.sheet([row(0), row(1)])
  assert double.shape[0] == 2 * single.shape[0] + 8
  np.testing.assert_array_equal(double[: single.shape[0]], single)


def test_errors_go_from_black_to_white():
  found = flow_pictures.heat(np.array([[0.0, 1.0, 2.0, np.nan]]))[0]
  assert found.tolist() == [[0] * 3, [255] * 3, [255] * 3, [128] * 3]
  levels = flow_pictures.heat(np.linspace(0, 1, 50)[None])[0].sum(-1)
  assert (np.diff(levels.astype(int)) >= 0).all()


def titles(monkeypatch, one):
  """Of the pictures of a row."""
  found = []
  monkeypatch.setattr(
    flow_pictures.side_by_side, "side_by_side",
    lambda pictures, gap: found.extend(pictures) or one.frames[0],
  )  # fmt: skip
  flow_pictures.sheet([one])
  return found


def test_a_pair_that_stands_still_has_an_error(monkeypatch):
  one = row()
  still = one._replace(
    truth=np.zeros_like(one.truth), predicted=one.predicted * 0 + (3, 4)
  )
  assert "error, mean 5.00 px" in titles(monkeypatch, still)
  unknown = one._replace(truth=np.full_like(one.truth, np.nan))
  assert "error, not known" in titles(monkeypatch, unknown)


def test_flow_of_which_nothing_is_known_can_be_drawn():
  one = row()
  flow_pictures.sheet([one._replace(truth=np.full_like(one.truth, np.nan))])

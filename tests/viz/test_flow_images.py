import numpy as np

from perceiver_jax.viz import flow_colors, flow_images


def flow_sample(seed=0, size=(100, 200)):
  rng = np.random.default_rng(seed)
  frames = rng.integers(0, 256, (2, *size, 3), np.uint8)
  target = np.zeros((*size, 2), np.float32)
  target[:, size[1] // 2 :] = (6, -8)
  prediction = target + np.float32([3, 4])
  target[0, 0] = np.nan
  return flow_images.FlowSample(frames, target, prediction)


def columns(sheet):
  """Returns the five images of the first row."""
  starts = [i * 208 for i in range(5)]
  return [sheet[-100:, start : start + 200] for start in starts]


def test_a_row_has_frames_target_prediction_and_error():
  one = flow_sample()
  sheet = flow_images.contact_sheet([one])
  assert sheet.dtype == np.uint8
  assert sheet.shape[1:] == (5 * 208 + 96, 3)
  first, second, target, prediction, error = columns(sheet)
  np.testing.assert_array_equal(first, one.frames[0])
  np.testing.assert_array_equal(second, one.frames[1])
  np.testing.assert_array_equal(target, flow_colors.flow_to_rgb(one.target, 10))
  np.testing.assert_array_equal(
    prediction, flow_colors.flow_to_rgb(one.prediction, 10)
  )
  # The error is half of the longest motion everywhere; unknown is gray.
  assert len(np.unique(error.reshape(-1, 3), axis=0)) == 2
  np.testing.assert_array_equal(error[0, 0], [128] * 3)
  np.testing.assert_array_equal(
    error[5, 5], flow_images.error_colors(np.float64(0.5))
  )


def test_the_color_wheel_is_beside_the_first_row():
  sheet = flow_images.contact_sheet([flow_sample()])
  np.testing.assert_array_equal(sheet[:96, -96:], flow_colors.wheel(96))


def test_small_images_are_enlarged():
  one = flow_sample(size=(30, 50))
  sheet = flow_images.contact_sheet([one])
  first = sheet[-120:, :200]
  np.testing.assert_array_equal(first[::4, ::4], one.frames[0])
  np.testing.assert_array_equal(first[3::4, 3::4], one.frames[0])


def test_rows_are_below_each_other():
  single = flow_images.contact_sheet([flow_sample(0)])
  double = flow_images.contact_sheet([flow_sample(0), flow_sample(1)])
  assert double.shape[0] == 2 * single.shape[0] + 8
  np.testing.assert_array_equal(double[: single.shape[0]], single)


def test_errors_go_from_black_to_white():
  colors = flow_images.error_colors(np.array([[0.0, 1.0, 2.0, np.nan]]))[0]
  assert colors.tolist() == [[0] * 3, [255] * 3, [255] * 3, [128] * 3]
  levels = flow_images.error_colors(np.linspace(0, 1, 50)[None])[0].sum(-1)
  assert (np.diff(levels.astype(int)) >= 0).all()


def titles(monkeypatch, one):
  """Returns the titles of a row of images."""
  names = []
  monkeypatch.setattr(
    flow_images.image_layout, "side_by_side",
    lambda images, gap: names.extend(images) or one.frames[0],
  )  # fmt: skip
  flow_images.contact_sheet([one])
  return names


def test_titles_have_the_mean_error_unless_flow_is_unknown(monkeypatch):
  one = flow_sample()
  still = one._replace(
    target=np.zeros_like(one.target), prediction=one.prediction * 0 + (3, 4)
  )
  assert "error, mean 5.00 px" in titles(monkeypatch, still)
  unknown = one._replace(target=np.full_like(one.target, np.nan))
  assert "error, unknown" in titles(monkeypatch, unknown)


def test_entirely_unknown_flow_can_be_drawn():
  one = flow_sample()
  flow_images.contact_sheet(
    [one._replace(target=np.full_like(one.target, np.nan))]
  )


def test_a_pair_without_target_is_shown_with_its_flow_alone():
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (2, 32, 160, 3), np.uint8)
  flow = rng.normal(size=(32, 160, 2)).astype(np.float32)
  sheet = flow_images.contact_sheet(
    [flow_images.FlowSample(frames, None, flow)]
  )
  # Three images with gaps of 8, then a gap and the wheel.
  title = sheet.shape[0] - 32
  assert sheet.shape[1] == 3 * 160 + 2 * 8 + 8 + min(96, sheet.shape[0])
  assert (
    sheet[title:, 2 * 168 : 2 * 168 + 160] == flow_colors.flow_to_rgb(flow)
  ).all()

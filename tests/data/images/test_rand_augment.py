import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from scipy import stats
from sklearn.datasets import load_sample_image

from perceiver_jax.data.images import rand_augment as augment
from perceiver_jax.errors import UserError

_GRAY = (128, 128, 128)
_PHOTO = load_sample_image("china.jpg")
_LEVELS = (0.0, 2.0, 5.0, 7.3, 10.0)
# A place halfway between two pixels belongs to the second.
_TIE = 1e-6
# A draw for each direction. As places, one of them is near a corner.
_DRAWS = ((0.31, 0.74), (0.98, 0.02))


def _amount(most, level, draw):
  return level / 10 * most * (1 if draw[0] < 0.5 else -1)


def _factor(level):
  return level / 10 * 1.8 + 0.1


def _affine(image, *matrix):
  # Unlike AFFINE, which rounds slopes to a 65,536th, this one is exact.
  return image.transform(
    image.size,
    Image.Transform.PERSPECTIVE,
    (*matrix, 0, 0),
    fillcolor=_GRAY,
  )


# Pillow takes pixels by their corners and the operations by their centers:
# half a pixel, times the slope, lies between.
def _shear_x(image, slope):
  return _affine(image, 1, slope, _TIE - slope / 2, 0, 1, 0)


def _shear_y(image, slope):
  return _affine(image, 1, 0, 0, slope, 1, _TIE - slope / 2)


def _cutout(image, half, draw):
  y, x = int(draw[0] * image.height), int(draw[1] * image.width)
  image = image.copy()
  if half:
    box = (x - half, y - half, x + half - 1, y + half - 1)
    ImageDraw.Draw(image).rectangle(box, fill=_GRAY)
  return image


def _solarize_add(image, addition):
  return image.point(lambda v: min(255, v + addition) if v < 128 else v)


# Pillow's implementation of each operation.
_PILLOW = {
  "AutoContrast": lambda p, level, draw: ImageOps.autocontrast(p),
  "Equalize": lambda p, level, draw: ImageOps.equalize(p),
  "Invert": lambda p, level, draw: ImageOps.invert(p),
  "Rotate": lambda p, level, draw: p.rotate(
    _amount(30, level, draw), fillcolor=_GRAY
  ),
  "Posterize": lambda p, level, draw: ImageOps.posterize(
    p, max(1, int(level / 10 * 4))
  ),
  "Solarize": lambda p, level, draw: ImageOps.solarize(
    p, int(level / 10 * 256)
  ),
  "Color": lambda p, level, draw: ImageEnhance.Color(p).enhance(_factor(level)),
  "Contrast": lambda p, level, draw: ImageEnhance.Contrast(p).enhance(
    _factor(level)
  ),
  "Brightness": lambda p, level, draw: ImageEnhance.Brightness(p).enhance(
    _factor(level)
  ),
  "Sharpness": lambda p, level, draw: ImageEnhance.Sharpness(p).enhance(
    _factor(level)
  ),
  "ShearX": lambda p, level, draw: _shear_x(p, _amount(0.3, level, draw)),
  "ShearY": lambda p, level, draw: _shear_y(p, _amount(0.3, level, draw)),
  "TranslateX": lambda p, level, draw: _affine(
    p, 1, 0, _amount(100, level, draw), 0, 1, 0
  ),
  "TranslateY": lambda p, level, draw: _affine(
    p, 1, 0, 0, 0, 1, _amount(100, level, draw)
  ),
  "Cutout": lambda p, level, draw: _cutout(p, int(level / 10 * 40), draw),
  "SolarizeAdd": lambda p, level, draw: _solarize_add(p, int(level / 10 * 110)),
}

# Largest difference of a value, and share of the values that may differ; zero
# for other operations. Pillow rotates in 65,536ths of a pixel, so that a place
# between two pixels may go to the other one. OpenCV rounds luma differently.
_BOUNDS = {"Rotate": (255, 0.004), "Color": (1, 0.004)}


def _noise(height, width):
  rng = np.random.default_rng(height * 1000 + width)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


_IMAGES = {
  "photo": _PHOTO,
  "hazy_photo": (_PHOTO // (2, 3, 4) + (10, 60, 90)).astype(np.uint8),
  "grey_photo": _PHOTO[..., 1:2].repeat(3, axis=2),
  "flipped_crop": _PHOTO[50:250, 400:100:-1],
  "constant": np.full((30, 40, 3), (10, 150, 240), np.uint8),
  "black": np.zeros((30, 40, 3), np.uint8),
  "white": np.full((30, 40, 3), 255, np.uint8),
  "two_levels": np.where(_noise(30, 40) < 99, 100, 101).astype(np.uint8),
  "one_pixel": _noise(1, 1),
  "row": _noise(1, 400),
  "column": _noise(400, 1),
}


def _pillow(name, image, level, draw):
  image = Image.fromarray(np.ascontiguousarray(image))
  return np.asarray(_PILLOW[name](image, level, draw))


def _apply(name, image, level, draw=_DRAWS[0]):
  return augment.OPERATIONS[name](image, level, np.array(draw))


@pytest.fixture
def only(monkeypatch):
  """Returns a function that removes all operations but one."""

  def keep(name):
    operation = augment.OPERATIONS[name]
    monkeypatch.setattr(augment, "OPERATIONS", {name: operation})

  return keep


@pytest.fixture
def drawn(monkeypatch):
  """Replaces all operations; returns the list of the names drawn."""
  names = []

  def recorder(name):
    return lambda image, level, draw: (names.append(name), image)[1]

  recorders = {name: recorder(name) for name in augment.OPERATIONS}
  monkeypatch.setattr(augment, "OPERATIONS", recorders)
  return names


# The operations


def test_pillow_has_each_of_the_sixteen_operations():
  assert len(augment.OPERATIONS) == 16
  assert augment.OPERATIONS.keys() == _PILLOW.keys()


@pytest.mark.parametrize("image", _IMAGES)
@pytest.mark.parametrize("name", augment.OPERATIONS)
def test_an_operation_agrees_with_pillow(name, image):
  image = _IMAGES[image]
  most, share = _BOUNDS.get(name, (0, 0))
  for level in _LEVELS:
    for draw in _DRAWS:
      out = _apply(name, image, level, draw)
      expected = _pillow(name, image, level, draw)
      assert out.dtype == np.uint8
      assert out.shape == expected.shape
      difference = np.abs(out.astype(int) - expected)
      assert difference.max() <= most, level
      assert np.mean(difference > 0) <= share, level


@pytest.mark.parametrize("name", augment.OPERATIONS)
def test_an_operation_changes_a_photo_but_not_its_argument(name):
  image = (_PHOTO[:200, :300] * 0.8 + 40).astype(np.uint8)
  before = image.copy()
  image.setflags(write=False)
  out = _apply(name, image, 9.0)
  assert np.mean(out != before) > 0.02
  np.testing.assert_array_equal(image, before)


@settings(max_examples=60, deadline=None)
@given(
  st.sampled_from(list(augment.OPERATIONS)),
  st.integers(1, 40),
  st.integers(1, 40),
  st.floats(0, 10),
  st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
)
def test_an_operation_takes_any_size_and_level(name, h, w, level, draw):
  image = _noise(h, w)
  image.setflags(write=False)
  out = _apply(name, image, level, draw)
  assert out.shape == image.shape
  assert out.dtype == np.uint8


@pytest.mark.parametrize(
  "name", ["Color", "Contrast", "Brightness", "Sharpness"]
)
def test_factors_change_nothing_at_level_5(name):
  np.testing.assert_array_equal(_apply(name, _PHOTO, 5.0), _PHOTO)


@pytest.mark.parametrize(
  ("level", "bits"), [(0, 1), (2.4, 1), (2.5, 1), (5, 2), (7.5, 3), (10, 4)]
)
def test_posterize_keeps_more_bits_at_higher_levels(level, bits):
  ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
  out = _apply("Posterize", ramp, level)
  assert len(np.unique(out)) == 2**bits


def test_solarize_inverts_nothing_at_the_highest_level():
  np.testing.assert_array_equal(_apply("Solarize", _PHOTO, 10), _PHOTO)


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY"])
def test_pixels_from_outside_the_image_are_gray(name):
  out = _apply(name, np.zeros((50, 60, 3), np.uint8), 10)
  assert set(np.unique(out)) == {0, 128}


@pytest.mark.parametrize("name", ["ShearX", "ShearY"])
def test_a_shear_by_half_a_pixel_repeats_no_pixel(name):
  image = np.zeros((20, 200, 3), np.uint8)
  image[:] = np.arange(200)[:, None]
  if name == "ShearX":
    out = _apply(name, image, 5)
  else:
    out = _apply(name, image.swapaxes(0, 1), 5).swapaxes(0, 1)
  # Row 10 comes from 1.5 pixels further on.
  np.testing.assert_array_equal(out[10, :150, 0], np.arange(2, 152))


def test_cutout_reaches_every_pixel_and_is_clipped_at_the_border(only):
  only("Cutout")
  image = np.zeros((30, 50, 3), np.uint8)
  rng = np.random.default_rng(0)
  outs = [
    augment.rand_augment(image, rng, num_layers=1, magnitude=2)
    for _ in range(600)
  ]
  gray = np.stack(outs)[..., 0] == 128
  assert np.all(gray.any(axis=0))
  # A square of 16 pixels has its center at any pixel; 8 x 8 fit in a corner.
  areas = gray.sum(axis=(1, 2))
  assert areas.max() == 16 * 16
  assert 8 * 8 <= areas.min() <= 10 * 10


# rand_augment


def test_operations_are_drawn_evenly_and_with_replacement(drawn):
  image, rng = _noise(1, 1), np.random.default_rng(0)
  num_draws = 8000
  for _ in range(num_draws):
    augment.rand_augment(image, rng, num_layers=2)
  pairs = collections.Counter(zip(drawn[::2], drawn[1::2], strict=True))
  single = collections.Counter(drawn)
  assert len(single) == 16
  assert stats.chisquare(list(single.values())).pvalue > 1e-3
  assert len(pairs) == 256
  assert stats.chisquare(list(pairs.values())).pvalue > 1e-3


@pytest.mark.parametrize("num_layers", [0, 1, 4, 7])
def test_there_are_as_many_operations_as_layers(drawn, num_layers):
  rng = np.random.default_rng(1)
  augment.rand_augment(_noise(1, 1), rng, num_layers=num_layers)
  assert len(drawn) == num_layers


def test_the_papers_setting_is_the_default(monkeypatch):
  levels = []
  monkeypatch.setattr(
    augment,
    "OPERATIONS",
    {"Any": lambda image, level, draw: (levels.append(level), image)[1]},
  )
  augment.rand_augment(_noise(2, 2), np.random.default_rng(0))
  assert levels == [5.0] * 4


def test_operations_are_applied_one_after_the_other(only):
  only("SolarizeAdd")
  image = np.full((2, 2, 3), 10, np.uint8)
  out = augment.rand_augment(image, np.random.default_rng(0), num_layers=2)
  assert np.all(out == 10 + 55 + 55)


@pytest.mark.parametrize(
  "name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"]
)
def test_geometric_operations_go_in_both_directions_equally_often(only, name):
  only(name)
  image, rng = _noise(60, 60), np.random.default_rng(2)
  counts = collections.Counter(
    augment.rand_augment(image, rng, num_layers=1).tobytes()
    for _ in range(1000)
  )
  assert len(counts) == 2
  assert stats.binomtest(min(counts.values()), 1000).pvalue > 1e-3


def test_augmentation_depends_on_the_generator_alone():
  image = _PHOTO[:64, :64]
  views = [
    augment.rand_augment(image, np.random.default_rng(seed))
    for seed in (0, 0, 1, 2, 3)
  ]
  np.testing.assert_array_equal(views[0], views[1])
  assert any(np.any(views[0] != view) for view in views[2:])


def test_zero_layers_change_nothing():
  image = _noise(20, 30)
  out = augment.rand_augment(image, np.random.default_rng(0), num_layers=0)
  np.testing.assert_array_equal(out, image)


def test_rand_augment_does_not_change_its_argument():
  image = _PHOTO[:40, :50].copy()
  before = image.copy()
  rng = np.random.default_rng(3)
  for _ in range(50):
    out = augment.rand_augment(image, rng)
    assert out.shape == image.shape
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
  "image",
  [
    np.zeros((4, 4, 3), np.float32),
    np.zeros((4, 4, 3), np.int8),
    np.zeros((4, 4), np.uint8),
    np.zeros((4, 4, 1), np.uint8),
    np.zeros((4, 4, 4), np.uint8),
    np.zeros((1, 4, 4, 3), np.uint8),
    np.zeros((0, 4, 3), np.uint8),
  ],
)
def test_other_arrays_are_refused(image):
  with pytest.raises(ValueError, match=r"image (must be uint8|has no pixel)"):
    augment.rand_augment(image, np.random.default_rng(0), num_layers=0)


@pytest.mark.parametrize("magnitude", [-0.1, 10.1, 30, float("nan")])
def test_a_magnitude_out_of_range_is_refused(magnitude):
  with pytest.raises(
    UserError, match=r"config\.data\.rand_augment\.magnitude .* 0 to 10"
  ) as error:
    augment.rand_augment(
      _noise(2, 2), np.random.default_rng(0), magnitude=magnitude
    )
  assert str(magnitude) in str(error.value)
  assert "\n" not in str(error.value)


def test_a_negative_number_of_layers_is_refused():
  with pytest.raises(
    UserError, match=r"config\.data\.rand_augment\.num_layers is -1"
  ):
    augment.rand_augment(_noise(2, 2), np.random.default_rng(0), num_layers=-1)

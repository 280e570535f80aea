import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import close, noise

from perceiver_jax.data.images import resizing, transforms
from perceiver_jax.errors import UserError

# inception_crop


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 2**32))
def test_inception_crop_is_inside_the_image(height, width, seed):
  rng = np.random.default_rng(seed)
  top, left, rows, columns = transforms.inception_crop(height, width, rng)
  assert 0 <= top < top + rows <= height
  assert 0 <= left < left + columns <= width


def _crops(height, width, count=4000, **bounds):
  rng = np.random.default_rng(0)
  draw = lambda: transforms.inception_crop(height, width, rng, **bounds)
  return np.array([draw() for _ in range(count)]).T


def test_inception_crop_keeps_area_and_aspect_within_bounds():
  _, _, rows, columns = _crops(3000, 4000)
  area, aspect = rows * columns / (3000 * 4000), columns / rows
  # Whole pixels round them by less than a thousandth.
  assert 0.08 * 0.999 < area.min() < 0.1
  assert 0.9 < area.max() <= 1
  assert 0.75 * 0.999 < aspect.min() < 0.76
  assert 1.32 < aspect.max() < 4 / 3 * 1.001


def test_inception_crop_is_even_in_area_aspect_and_place():
  # Small parts of a square: none is drawn again, so the draws are even.
  top, left, rows, columns = _crops(2000, 2000, area=(0.1, 0.5))
  area = rows * columns / 2000**2
  log_aspect = np.log(columns / rows) / np.log(4 / 3)
  for draws in (
    (area - 0.1) / 0.4,
    (log_aspect + 1) / 2,
    top / (2000 - rows),
    left / (2000 - columns),
  ):
    found = np.histogram(draws, 4, (0, 1))[0] / len(draws)
    np.testing.assert_allclose(found, 0.25, atol=0.03)


@pytest.mark.parametrize(
  ("size", "expected"),
  [
    ((1, 500), (0, 249, 1, 1)),
    ((500, 1), (249, 0, 1, 1)),
    ((1, 1), (0, 0, 1, 1)),
    ((30, 4000), (0, 1980, 30, 40)),
    ((4000, 30), (1980, 0, 40, 30)),
  ],
)
def test_inception_crop_of_a_strip_is_its_middle(size, expected):
  # A whole strip never fits the aspect ratio.
  rng = np.random.default_rng(0)
  assert transforms.inception_crop(*size, rng, area=(0.9, 1.0)) == expected


def test_inception_crop_takes_other_bounds():
  whole = _crops(60, 80, 20, area=(1.0, 1.0), aspect=(4 / 3, 4 / 3))
  np.testing.assert_array_equal(whole.T, [(0, 0, 60, 80)] * 20)


def test_inception_crop_depends_on_the_generator_alone():
  draws = [
    transforms.inception_crop(375, 500, np.random.default_rng(seed))
    for seed in (3, 3, 4)
  ]
  assert draws[0] == draws[1] != draws[2]


# normalize and to_pixels


def test_normalize_to_unit_spans_minus_one_to_one():
  pixels = noise(4, 5, 3)
  out = transforms.normalize(pixels, "unit")
  assert out.dtype == np.float32
  np.testing.assert_allclose(out, pixels / 127.5 - 1, atol=1e-6)


def test_normalize_by_imagenet_gives_its_mean_and_deviation():
  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  at_mean = np.full((2, 3, 3), np.multiply(mean, 255), np.float32)
  close(transforms.normalize(at_mean, "imagenet"), np.zeros((2, 3, 3)), 1e-6)
  above = at_mean + np.float32(np.multiply(std, 255))
  close(transforms.normalize(above, "imagenet"), np.ones((2, 3, 3)), 1e-5)


def test_normalize_keeps_what_is_beyond_black_and_white():
  pixels = np.array([[[-25.5], [280.5]]], np.float32)
  close(transforms.normalize(pixels, "unit"), np.array([[[-1.2], [1.2]]]), 1e-6)
  close(pixels, np.array([[[-25.5], [280.5]]]))  # Left as it was.


@pytest.mark.parametrize("normalization", transforms.NORMALIZATIONS)
@pytest.mark.parametrize("shape", [(6, 7, 3), (2, 6, 7, 3), (256, 1, 3)])
def test_to_pixels_undoes_normalize(normalization, shape):
  pixels = noise(*shape)
  out = transforms.to_pixels(
    transforms.normalize(pixels, normalization), normalization
  )
  assert out.dtype == np.uint8
  close(out, pixels)


def test_to_pixels_clips_and_rounds():
  x = np.array([[[-9.0], [0.001], [9.0]]], np.float32)
  close(transforms.to_pixels(x, "unit"), np.array([[[0], [128], [255]]]))


@pytest.mark.parametrize(
  "function", [transforms.normalize, transforms.to_pixels]
)
def test_normalizations_are_named(function):
  assert transforms.NORMALIZATIONS == ("unit", "zero_one", "imagenet")
  x = np.zeros((2, 2, 1), np.float32)
  with pytest.raises(
    UserError, match="'zero'; give unit or zero_one or imagenet"
  ):
    function(x, "zero")
  with pytest.raises(UserError, match="'imagenet' is for 3 channels, got 1"):
    function(x, "imagenet")


# prepare_image


def test_prepare_image_keeps_the_middle_at_the_aspect_of_the_model():
  picture = np.zeros((10, 40, 3), np.uint8)
  picture[:, 15:25] = 255  # a square: all that a square model should see
  assert transforms.prepare_image(picture, (4, 4, 3)).min() == 1
  wide = transforms.prepare_image(picture, (5, 20, 1))
  np.testing.assert_array_equal(wide[0, [0, 9, 19], 0], [-1, 1, -1])


def test_prepare_image_inverts():
  picture = np.array([[0, 255]], np.uint8).repeat(2, axis=0)
  out = transforms.prepare_image(picture, (2, 2, 1))
  np.testing.assert_array_equal(out[..., 0], [[-1, 1], [-1, 1]])
  inverted = transforms.prepare_image(picture, (2, 2, 1), invert=True)
  np.testing.assert_array_equal(inverted, -out)


@settings(max_examples=40, deadline=None)
@given(
  st.sampled_from([(), (1,), (3,), (4,)]),
  st.integers(1, 90),
  st.integers(1, 90),
  st.tuples(st.integers(1, 32), st.integers(1, 32), st.sampled_from([1, 3])),
)
def test_prepare_image_takes_any_picture(channels, height, width, shape):
  picture = np.full((height, width, *channels), 255, np.uint8)
  out = transforms.prepare_image(picture, shape)
  assert out.dtype == np.float32
  np.testing.assert_array_equal(out, np.ones(shape, np.float32))


def test_prepare_image_cuts_a_smaller_part_out():
  picture = np.zeros((20, 40, 3), np.uint8)
  picture[5:15, 15:25] = 255
  half = transforms.prepare_image(picture, (4, 4, 3), crop_fraction=0.5)
  assert half.min() == 1
  more = transforms.prepare_image(picture, (12, 12, 3), crop_fraction=0.6)
  assert more[0].max() == -1
  with pytest.raises(ValueError, match="crop_fraction"):
    transforms.prepare_image(picture, (4, 4, 3), crop_fraction=0)


def test_prepare_image_as_the_papers_evaluate_on_imagenet():
  picture = noise(64, 96, 3)
  out = transforms.prepare_image(
    picture,
    (28, 28, 3),
    crop_fraction=0.875,
    resize="cubic",
    normalization="imagenet",
  )
  part = resizing.cubic_resize(picture[4:60, 20:76], 28, 28)
  np.testing.assert_array_equal(out, transforms.normalize(part, "imagenet"))


@pytest.mark.parametrize("resize", resizing.RESIZES)
@pytest.mark.parametrize("normalization", transforms.NORMALIZATIONS)
def test_prepare_image_inverts_whatever_else_it_does(resize, normalization):
  picture = noise(8, 8, 3)
  how = {"resize": resize, "normalization": normalization}
  inverted = transforms.prepare_image(picture, (6, 6, 3), invert=True, **how)
  negative = transforms.prepare_image(255 - picture, (6, 6, 3), **how)
  # An average rounds its halves upward, so the order may cost a level.
  close(inverted, negative, 1 / 50)


# has_bright_border and random_affine


@pytest.mark.parametrize(("ground", "bright"), [(255, True), (0, False)])
def test_has_bright_border_looks_at_the_outermost_pixels(ground, bright):
  picture = np.full((9, 12, 3), 255 - ground, np.uint8)
  picture[[0, -1]] = ground
  picture[:, [0, -1]] = ground
  assert transforms.has_bright_border(picture) is bright


def test_an_affine_change_of_nothing_changes_nothing():
  image = np.random.default_rng(0).normal(size=(6, 5, 1)).astype(np.float32)
  out = transforms.random_affine(image, np.random.default_rng(1))
  np.testing.assert_allclose(out, image, atol=1e-6)
  assert out.dtype == np.float32


def test_affine_changes_stay_within_their_bounds():
  rng = np.random.default_rng(0)
  image = np.zeros((41, 41, 1), np.float32)
  image[20, 30] = 1.0  # 10 pixels to the right of the center.
  places = []
  for _ in range(200):
    out = transforms.random_affine(image, rng, degrees=30, scale=0.1, shift=2)
    y, x = (np.average(i, weights=out[..., 0]) for i in np.mgrid[0:41, 0:41])
    places.append((x - 20, y - 20))
  x, y = np.array(places).T
  radius = np.hypot(x, y)
  assert radius.max() < 10 * 1.1 + np.hypot(2, 2) + 0.5
  assert radius.min() > 10 * 0.9 - np.hypot(2, 2) - 0.5
  assert y.min() < -4  # It was turned, both ways.
  assert y.max() > 4


def test_edges_fill_what_comes_into_view():
  image = np.full((8, 8, 3), 0.25, np.float32)
  out = transforms.random_affine(
    image, np.random.default_rng(3), degrees=45, scale=0.5, shift=4
  )
  np.testing.assert_allclose(out, 0.25, atol=1e-6)

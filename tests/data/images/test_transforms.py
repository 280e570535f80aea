import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_patterns import assert_close, noise
from scipy import stats

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


def _published_crop(height, width, rng):
  """Draws (top, left, height, width) as TensorFlow's kernel is published.

  This is the algorithm of sample_distorted_bounding_box_op.cc with the
  arguments of DeepMind's code, written out for comparison.
  """
  image_area = width * height
  for _ in range(10):
    aspect = 3 / 4 + rng.random() * (4 / 3 - 3 / 4)
    rows = round((0.08 * image_area / aspect) ** 0.5)
    max_rows = round((1.0 * image_area / aspect) ** 0.5)
    while round(max_rows * aspect) > width:
      max_rows -= 1
    max_rows = min(max_rows, height)
    rows = min(rows, max_rows)
    if rows < max_rows:
      rows += rng.integers(max_rows - rows + 1)
    if rows * round(rows * aspect) < 0.08 * image_area:
      rows += 1
    if rows * round(rows * aspect) > image_area:
      rows -= 1
    columns = round(rows * aspect)
    area = rows * columns
    if not 0.08 * image_area <= area <= image_area:
      continue
    if rows > height or columns > width or area < 0.1 * image_area:
      continue
    if (rows, columns) == (height, width):
      break
    top = rng.integers(height - rows) if rows < height else 0
    left = rng.integers(width - columns) if columns < width else 0
    return top, left, rows, columns
  side = int(0.875 * min(height, width))
  return (height - side + 1) // 2, (width - side + 1) // 2, side, side


@pytest.mark.parametrize(
  "size", [(375, 500), (500, 375), (64, 64), (97, 333), (300, 30)]
)
def test_inception_crop_has_the_distribution_of_tensorflows_kernel(size):
  rng = np.random.default_rng(1)
  expected = np.array([_published_crop(*size, rng) for _ in range(4000)]).T
  crops = _crops(*size)
  for x, y in (
    *zip(crops, expected, strict=True),
    (crops[2] * crops[3], expected[2] * expected[3]),
    (crops[3] / crops[2], expected[3] / expected[2]),
  ):
    assert stats.ks_2samp(x, y).pvalue > 1e-4


def test_inception_crop_covers_as_much_as_tensorflows():
  # The mean area of 40,000 of TensorFlow's crops of 500 x 375 pixels is 0.387;
  # with uniform areas, as in torchvision, it would be 0.43.
  _, _, rows, columns = _crops(375, 500, 20_000)
  area, aspect = rows * columns / (375 * 500), columns / rows
  assert area.mean() == pytest.approx(0.387, abs=0.006)
  assert 0.1 <= area.min() < 0.102
  assert 0.97 < area.max() <= 1
  assert 0.75 * 0.99 < aspect.min() < 0.76
  assert 1.32 < aspect.max() < 4 / 3 * 1.01


def test_inception_crop_is_uniform_in_aspect_height_and_place():
  # Of this aspect ratio, any height up to 500 is allowed.
  top, left, rows, columns = _crops(
    500, 2000, 8000, area=(0.1, 1.0), aspect=(1.0, 1.0)
  )
  least = round((0.1 * 500 * 2000) ** 0.5)
  for draws in (
    (rows - least) / (500.5 - least),
    top / np.maximum(1, 500 - rows),
    left / (2000 - columns),
  ):
    shares = np.histogram(draws, 4, (0, 1))[0] / len(draws)
    np.testing.assert_allclose(shares, 0.25, atol=0.03)
  _, _, rows, columns = _crops(2000, 2000, area=(0.1, 0.5))
  aspect = (columns / rows - 3 / 4) / (4 / 3 - 3 / 4)
  crops = np.histogram(aspect, 4, (0, 1))[0] / len(aspect)
  np.testing.assert_allclose(crops, 0.25, atol=0.03)


@pytest.mark.parametrize(
  ("size", "expected"),
  [
    ((1, 500), (0, 250, 1, 1)),
    ((500, 1), (250, 0, 1, 1)),
    ((1, 1), (0, 0, 1, 1)),
    ((30, 4000), (2, 1987, 26, 26)),
    ((4000, 31), (1987, 2, 27, 27)),
  ],
)
def test_inception_crop_of_a_strip_is_its_padded_center(size, expected):
  # No crop of an allowed aspect ratio covers a tenth of a strip.
  rng = np.random.default_rng(0)
  assert transforms.inception_crop(*size, rng) == expected


def test_inception_crop_of_the_whole_image_is_its_padded_center():
  whole = _crops(60, 80, 20, area=(1.0, 1.0), aspect=(4 / 3, 4 / 3))
  np.testing.assert_array_equal(whole.T, [(4, 14, 52, 52)] * 20)


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
  assert_close(
    transforms.normalize(at_mean, "imagenet"), np.zeros((2, 3, 3)), 1e-6
  )
  above = at_mean + np.float32(np.multiply(std, 255))
  assert_close(
    transforms.normalize(above, "imagenet"), np.ones((2, 3, 3)), 1e-5
  )


def test_normalize_does_not_clip_values():
  pixels = np.array([[[-25.5], [280.5]]], np.float32)
  assert_close(
    transforms.normalize(pixels, "unit"), np.array([[[-1.2], [1.2]]]), 1e-6
  )
  assert_close(pixels, np.array([[[-25.5], [280.5]]]))  # Left as it was.


@pytest.mark.parametrize("normalization", transforms.NORMALIZATIONS)
@pytest.mark.parametrize("shape", [(6, 7, 3), (2, 6, 7, 3), (256, 1, 3)])
def test_to_pixels_undoes_normalize(normalization, shape):
  pixels = noise(*shape)
  out = transforms.to_pixels(
    transforms.normalize(pixels, normalization), normalization
  )
  assert out.dtype == np.uint8
  assert_close(out, pixels)


def test_to_pixels_clips_and_rounds():
  x = np.array([[[-9.0], [0.001], [9.0]]], np.float32)
  assert_close(transforms.to_pixels(x, "unit"), np.array([[[0], [128], [255]]]))


@pytest.mark.parametrize(
  "function", [transforms.normalize, transforms.to_pixels]
)
def test_unknown_normalizations_are_refused_and_named(function):
  assert transforms.NORMALIZATIONS == ("unit", "zero_one", "imagenet")
  x = np.zeros((2, 2, 1), np.float32)
  with pytest.raises(
    UserError, match="'zero'; give unit or zero_one or imagenet"
  ):
    function(x, "zero")
  with pytest.raises(UserError, match="'imagenet' is for 3 channels, got 1"):
    function(x, "imagenet")


# prepare_image


def test_prepare_image_crops_the_center_at_the_aspect_ratio_of_the_model():
  image = np.zeros((10, 40, 3), np.uint8)
  image[:, 15:25] = 255  # This square is all that a square model should see.
  assert transforms.prepare_image(image, (4, 4, 3)).min() == 1
  wide = transforms.prepare_image(image, (5, 20, 1))
  np.testing.assert_array_equal(wide[0, [0, 9, 19], 0], [-1, 1, -1])


def test_prepare_image_inverts_on_request():
  image = np.array([[0, 255]], np.uint8).repeat(2, axis=0)
  out = transforms.prepare_image(image, (2, 2, 1))
  np.testing.assert_array_equal(out[..., 0], [[-1, 1], [-1, 1]])
  inverted = transforms.prepare_image(image, (2, 2, 1), invert=True)
  np.testing.assert_array_equal(inverted, -out)


@settings(max_examples=40, deadline=None)
@given(
  st.sampled_from([(), (1,), (3,), (4,)]),
  st.integers(1, 90),
  st.integers(1, 90),
  st.tuples(st.integers(1, 32), st.integers(1, 32), st.sampled_from([1, 3])),
)
def test_prepare_image_accepts_any_size_and_channels(
  channels, height, width, shape
):
  image = np.full((height, width, *channels), 255, np.uint8)
  out = transforms.prepare_image(image, shape)
  assert out.dtype == np.float32
  np.testing.assert_array_equal(out, np.ones(shape, np.float32))


def test_prepare_image_crops_a_fraction_of_the_short_side():
  image = np.zeros((20, 40, 3), np.uint8)
  image[5:15, 15:25] = 255
  half = transforms.prepare_image(image, (4, 4, 3), crop_fraction=0.5)
  assert half.min() == 1
  more = transforms.prepare_image(image, (12, 12, 3), crop_fraction=0.6)
  assert more[0].max() == -1
  with pytest.raises(ValueError, match="crop_fraction"):
    transforms.prepare_image(image, (4, 4, 3), crop_fraction=0)


def test_prepare_image_can_preprocess_as_the_papers_evaluate_imagenet():
  image = noise(64, 96, 3)
  out = transforms.prepare_image(
    image,
    (28, 28, 3),
    crop_fraction=0.875,
    resize="cubic",
    normalization="imagenet",
  )
  part = resizing.cubic_resize(image[4:60, 20:76], 28, 28)
  np.testing.assert_array_equal(out, transforms.normalize(part, "imagenet"))


@pytest.mark.parametrize("height", [375, 376, 333, 224, 257])
@pytest.mark.parametrize("width", [500, 499, 224, 259])
def test_the_evaluation_crop_rounds_as_the_authors(height, width):
  # Sizes are cut off and offsets rounded up.
  side = int(np.float32(0.875) * np.float32(min(height, width)))
  assert transforms.center_crop_box(height, width, (224, 224), 224 / 256) == (
    (height - side + 1) // 2, (width - side + 1) // 2, side, side,
  )  # fmt: skip


def test_the_evaluation_crop_of_odd_sizes():
  # 0.875 x 333 = 291.4 and 0.875 x 335 = 293.1; the margins are odd.
  box = lambda *size: transforms.center_crop_box(*size, (224, 224), 0.875)
  assert box(333, 500) == (21, 105, 291, 291)
  assert box(335, 500) == (21, 104, 293, 293)
  image = noise(334, 501, 3)
  out = transforms.prepare_image(image, (8, 8, 3), crop_fraction=0.875)
  part = image[21:313, 105:397]
  np.testing.assert_array_equal(out, transforms.prepare_image(part, (8, 8, 3)))


@pytest.mark.parametrize("resize", resizing.RESIZES)
@pytest.mark.parametrize("normalization", transforms.NORMALIZATIONS)
def test_prepare_image_inverts_with_every_resize_and_normalization(
  resize, normalization
):
  image = noise(8, 8, 3)
  kwargs = {"resize": resize, "normalization": normalization}
  inverted = transforms.prepare_image(image, (6, 6, 3), invert=True, **kwargs)
  negative = transforms.prepare_image(255 - image, (6, 6, 3), **kwargs)
  # Averages round halves up, so that inverting first may differ by a level.
  assert_close(inverted, negative, 1 / 50)


# has_bright_border and random_affine


@pytest.mark.parametrize(("ground", "bright"), [(255, True), (0, False)])
def test_has_bright_border_looks_at_the_outermost_pixels(ground, bright):
  image = np.full((9, 12, 3), 255 - ground, np.uint8)
  image[[0, -1]] = ground
  image[:, [0, -1]] = ground
  assert transforms.has_bright_border(image) is bright


def test_an_affine_transformation_of_zero_changes_nothing():
  image = np.random.default_rng(0).normal(size=(6, 5, 1)).astype(np.float32)
  out = transforms.random_affine(image, np.random.default_rng(1))
  np.testing.assert_allclose(out, image, atol=1e-6)
  assert out.dtype == np.float32


def test_affine_transformations_stay_within_their_bounds():
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
  assert y.min() < -4  # It is rotated in both directions.
  assert y.max() > 4


def test_affine_transformations_repeat_the_edges():
  image = np.full((8, 8, 3), 0.25, np.float32)
  out = transforms.random_affine(
    image, np.random.default_rng(3), degrees=45, scale=0.5, shift=4
  )
  np.testing.assert_allclose(out, 0.25, atol=1e-6)

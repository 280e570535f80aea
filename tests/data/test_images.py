import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from perceiver_jax.data import images
from perceiver_jax.errors import UserError

# Four flat quarters: any turn or flip shows, and JPEG keeps them exactly
# enough, as do averages and cubics away from the seams.
_QUARTERS = np.array(
  [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [128, 128, 128]]], np.uint8
)


def _quarters(height=32, width=48):
  picture = _QUARTERS.repeat(height // 2, axis=0)
  return picture.repeat(width // 2, axis=1)


def _close(actual, expected, tolerance=0):
  assert actual.shape == expected.shape
  difference = np.abs(actual.astype(np.float64) - expected)
  assert difference.max() <= tolerance


# read_image


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "jpg"])
def test_read_image_gives_rgb(tmp_path, suffix):
  path = tmp_path / f"x.{suffix}"
  lossless = {"lossless": True} if suffix == "webp" else {}
  quality = {"quality": 98, "subsampling": 0} if suffix == "jpg" else {}
  Image.fromarray(_quarters()).save(path, **lossless, **quality)
  _close(images.read_image(path), _quarters(), 4 if quality else 0)
  _close(images.read_image(str(path)), _quarters(), 4 if quality else 0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_turns_pictures_upright(tmp_path, suffix, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  path = tmp_path / f"x.{suffix}"
  Image.fromarray(_quarters()).save(path, exif=exif)
  with Image.open(path) as stored:
    upright = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
  # Pillow and OpenCV round colours differently by a few levels.
  _close(images.read_image(path), upright, 4)


def test_read_image_turns_16_bit_grey_upright(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  levels = np.arange(6, dtype=np.uint16).reshape(2, 3) * 257
  Image.fromarray(levels).save(tmp_path / "x.png", exif=exif)
  upright = np.array([[3, 0], [4, 1], [5, 2]])
  _close(images.read_image(tmp_path / "x.png", 1)[..., 0], upright)


def test_read_image_of_grey(tmp_path):
  grey = np.arange(20, dtype=np.uint8).reshape(4, 5, 1)
  cv2.imwrite(str(tmp_path / "x.png"), grey)
  _close(images.read_image(tmp_path / "x.png", 1), grey)
  _close(images.read_image(tmp_path / "x.png"), grey.repeat(3, axis=2))


def test_read_image_in_grey_weighs_colours_as_eyes_do(tmp_path):
  Image.fromarray(_quarters()).save(tmp_path / "x.png")
  grey = images.read_image(tmp_path / "x.png", 1)
  assert grey.shape == (32, 48, 1)
  luma = np.array([[76, 150], [29, 128]])
  _close(grey[[0, -1]][:, [0, -1], 0], luma, 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_read_image_composites_on_white(tmp_path, mode):
  colour = (100, 100, 100)[: len(mode) - 1]
  picture = Image.new(mode, (3, 1))
  for x, alpha in enumerate((0, 102, 255)):
    picture.putpixel((x, 0), (*colour, alpha))
  picture.save(tmp_path / "x.png")
  # 255 * 0.6 + 100 * 0.4 = 193.
  expected = np.array([[[255], [193], [100]]]).repeat(3, axis=2)
  _close(images.read_image(tmp_path / "x.png"), expected)


def test_read_image_of_a_palette(tmp_path):
  picture = Image.fromarray(_quarters()).quantize(4)
  picture.save(tmp_path / "x.png")
  _close(images.read_image(tmp_path / "x.png"), _quarters(), 1)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 3), (2, 3, 4)])
def test_read_image_scales_16_bits_to_8(tmp_path, shape):
  levels = np.full(shape, 200 * 257 + 100, np.uint16)
  levels[..., 3:] = 65535
  cv2.imwrite(str(tmp_path / "x.png"), levels)
  _close(images.read_image(tmp_path / "x.png"), np.full((2, 3, 3), 200))


def test_read_image_of_a_cmyk_jpeg(tmp_path):
  picture = Image.fromarray(_quarters()).convert("CMYK")
  picture.save(tmp_path / "x.jpg", quality=98, subsampling=0)
  _close(images.read_image(tmp_path / "x.jpg"), _quarters(), 6)


def test_read_image_goes_by_the_content_not_the_name(tmp_path):
  path = tmp_path / "really_a_png.jpg"
  path.write_bytes(images.encode_png(_quarters()))
  _close(images.read_image(path), _quarters())


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_read_image_refuses_a_truncated_file(tmp_path, suffix, kept):
  path = tmp_path / f"x.{suffix}"
  noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
  cv2.imwrite(str(path), noise)
  data = path.read_bytes()
  path.write_bytes(data[: int(kept * len(data))])
  with pytest.raises(UserError, match=rf"x\.{suffix}.*damaged, incomplete"):
    images.read_image(path)


def test_read_image_says_what_is_wrong_in_a_line(tmp_path):
  (tmp_path / "text.png").write_text("no picture")
  (tmp_path / "empty.png").write_bytes(b"")
  assert cv2.imwrite(str(tmp_path / "x.tiff"), np.zeros((4, 4), np.float32))
  reasons = {
    "text.png": "damaged",
    "empty.png": "is empty",
    "x.tiff": "float32 pixels",
    "missing.png": "no such file",
    "": "is a directory",
  }
  for name, reason in reasons.items():
    with pytest.raises(UserError, match=f"{name}.*{reason}") as error:
      images.read_image(tmp_path / name)
    assert "\n" not in str(error.value)


def test_read_image_leaves_no_noise_on_stderr(tmp_path, capfd):
  (tmp_path / "x.png").write_bytes(images.encode_png(_quarters())[:60])
  with pytest.raises(UserError):
    images.read_image(tmp_path / "x.png")
  assert capfd.readouterr().err == ""


# to_channels


def test_to_channels_refuses_what_is_no_picture():
  with pytest.raises(ValueError, match="must be 1 or 3, got 4"):
    images.to_channels(np.zeros((2, 2, 3), np.uint8), 4)
  for shape in ((2,), (2, 2, 2), (1, 2, 2, 3)):
    with pytest.raises(ValueError, match="not a grey, RGB or RGBA image"):
      images.to_channels(np.zeros(shape, np.uint8), 3)


# resize and crops


def test_resize_averages_on_the_way_down():
  fine = np.indices((8, 8)).sum(0)[..., None] % 2 * 200
  small = images.resize(fine.astype(np.uint8), 4, 2)
  _close(small, np.full((4, 2, 1), 100))


def test_resize_keeps_the_place_of_things_on_the_way_up():
  large = images.resize(_quarters(8, 8), 64, 64)
  _close(large[[0, -1]][:, [0, -1]], _QUARTERS)


@settings(max_examples=25, deadline=None)
@given(
  st.tuples(*[st.integers(1, 40)] * 4),
  st.sampled_from([1, 3]),
  st.sampled_from([np.uint8, np.float32]),
)
def test_resize_gives_any_size_and_keeps_flat_pictures_flat(sizes, c, dtype):
  height, width, rows, columns = sizes
  out = images.resize(np.full((height, width, c), 37, dtype), rows, columns)
  assert out.dtype == dtype
  _close(out, np.full((rows, columns, c), 37), 1e-3)


def test_centre_crop_resize_cuts_the_middle_out():
  picture = np.zeros((20, 40, 3), np.uint8)
  picture[5:15, 15:25] = 255
  _close(images.centre_crop_resize(picture, 7, 0.5), np.full((7, 7, 3), 255))
  whole = images.centre_crop_resize(picture, 20, 1.0)
  _close(whole, picture[:, 10:30])


@pytest.mark.parametrize("fraction", [0, -1, 1.1])
def test_centre_crop_resize_refuses_other_fractions(fraction):
  with pytest.raises(ValueError, match="crop_fraction"):
    images.centre_crop_resize(_quarters(), 8, fraction)


# to_float and prepare_image


def test_to_float_spans_minus_one_to_one():
  out = images.to_float(np.array([[0], [51], [255]], np.uint8))
  assert out.dtype == np.float32
  np.testing.assert_allclose(out, [[-1], [-0.6], [1]], atol=1e-6)


def test_to_float_normalises_by_channel():
  mean, std = np.array([0.5, 0.0, 1.0]), np.array([0.5, 2.0, 1.0])
  out = images.to_float(np.array([255, 255, 0], np.uint8), mean, std)
  assert out.dtype == np.float32
  np.testing.assert_allclose(out, [1, 0.5, -1], atol=1e-6)


def test_to_float_refuses_other_pixels():
  with pytest.raises(ValueError, match="must be uint8, got float32"):
    images.to_float(np.zeros(3, np.float32))
  with pytest.raises(ValueError, match="go together"):
    images.to_float(np.zeros(3, np.uint8), mean=np.zeros(3))


def test_prepare_image_keeps_the_middle_at_the_aspect_of_the_model():
  picture = np.zeros((10, 40, 3), np.uint8)
  picture[:, 15:25] = 255  # a square: all that a square model should see
  assert images.prepare_image(picture, (4, 4, 3)).min() == 1
  wide = images.prepare_image(picture, (5, 20, 1))
  np.testing.assert_array_equal(wide[0, [0, 9, 19], 0], [-1, 1, -1])


def test_prepare_image_inverts():
  picture = np.array([[0, 255]], np.uint8).repeat(2, axis=0)
  out = images.prepare_image(picture, (2, 2, 1))
  np.testing.assert_array_equal(out[..., 0], [[-1, 1], [-1, 1]])
  inverted = images.prepare_image(picture, (2, 2, 1), invert=True)
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
  out = images.prepare_image(picture, shape)
  assert out.dtype == np.float32
  np.testing.assert_array_equal(out, np.ones(shape, np.float32))


@pytest.mark.parametrize(("ground", "bright"), [(255, True), (0, False)])
def test_has_bright_border_looks_at_the_outermost_pixels(ground, bright):
  picture = np.full((9, 12, 3), 255 - ground, np.uint8)
  picture[[0, -1]] = ground
  picture[:, [0, -1]] = ground
  assert images.has_bright_border(picture) is bright


# encode_png


@pytest.mark.parametrize("channels", [1, 3])
def test_encode_png_comes_back_as_it_went(tmp_path, channels):
  rng = np.random.default_rng(1)
  picture = rng.integers(0, 256, (5, 7, channels), np.uint8)
  (tmp_path / "x.png").write_bytes(images.encode_png(picture))
  _close(images.read_image(tmp_path / "x.png", channels), picture)


def test_encode_png_keeps_alpha_and_the_order_of_colours(tmp_path):
  picture = np.full((2, 2, 4), [1, 2, 3, 4], np.uint8)
  (tmp_path / "x.png").write_bytes(images.encode_png(picture))
  with Image.open(tmp_path / "x.png") as stored:
    _close(np.asarray(stored), picture)


def test_encode_png_refuses_floats():
  with pytest.raises(ValueError, match="must be uint8, got float64"):
    images.encode_png(np.zeros((2, 2)))


def test_an_affine_change_of_nothing_changes_nothing():
  image = np.random.default_rng(0).normal(size=(6, 5, 1)).astype(np.float32)
  out = images.random_affine(image, np.random.default_rng(1))
  np.testing.assert_allclose(out, image, atol=1e-6)
  assert out.dtype == np.float32


def test_affine_changes_stay_within_their_bounds():
  rng = np.random.default_rng(0)
  image = np.zeros((41, 41, 1), np.float32)
  image[20, 30] = 1.0  # 10 pixels to the right of the centre.
  places = []
  for _ in range(200):
    out = images.random_affine(image, rng, degrees=30, scale=0.1, shift=2)
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
  out = images.random_affine(
    image, np.random.default_rng(3), degrees=45, scale=0.5, shift=4
  )
  np.testing.assert_allclose(out, 0.25, atol=1e-6)

import io
import os
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from image_patterns import assert_close, noise, quarters
from PIL import Image, ImageOps

from perceiver_jax.data.images import codec
from perceiver_jax.errors import UserError

# read_image


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "jpg"])
def test_read_image_reads_rgb_of_any_format(tmp_path, suffix):
  path = tmp_path / f"x.{suffix}"
  lossless = {"lossless": True} if suffix == "webp" else {}
  quality = {"quality": 98, "subsampling": 0} if suffix == "jpg" else {}
  Image.fromarray(quarters()).save(path, **lossless, **quality)
  assert_close(codec.read_image(path), quarters(), 4 if quality else 0)
  assert_close(codec.read_image(str(path)), quarters(), 4 if quality else 0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_rotates_images_by_their_exif(tmp_path, suffix, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  path = tmp_path / f"x.{suffix}"
  Image.fromarray(quarters()).save(path, exif=exif)
  with Image.open(path) as stored:
    upright = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
  # Pillow and OpenCV round colors differently by a few levels.
  assert_close(codec.read_image(path), upright, 4)


def test_read_image_rotates_16_bit_gray_by_its_exif(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  levels = np.arange(6, dtype=np.uint16).reshape(2, 3) * 257
  Image.fromarray(levels).save(tmp_path / "x.png", exif=exif)
  upright = np.array([[3, 0], [4, 1], [5, 2]])
  assert_close(codec.read_image(tmp_path / "x.png", 1)[..., 0], upright)


def test_read_image_converts_gray_to_the_channels_wanted(tmp_path):
  gray = np.arange(20, dtype=np.uint8).reshape(4, 5, 1)
  cv2.imwrite(str(tmp_path / "x.png"), gray)
  assert_close(codec.read_image(tmp_path / "x.png", 1), gray)
  assert_close(codec.read_image(tmp_path / "x.png"), gray.repeat(3, axis=2))


def test_read_image_converts_colors_to_luma(tmp_path):
  Image.fromarray(quarters()).save(tmp_path / "x.png")
  gray = codec.read_image(tmp_path / "x.png", 1)
  assert gray.shape == (32, 48, 1)
  luma = np.array([[76, 150], [29, 128]])
  assert_close(gray[[0, -1]][:, [0, -1], 0], luma, 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_read_image_composites_on_white(tmp_path, mode):
  color = (100, 100, 100)[: len(mode) - 1]
  image = Image.new(mode, (3, 1))
  for x, alpha in enumerate((0, 102, 255)):
    image.putpixel((x, 0), (*color, alpha))
  image.save(tmp_path / "x.png")
  # 255 * 0.6 + 100 * 0.4 = 193.
  expected = np.array([[[255], [193], [100]]]).repeat(3, axis=2)
  assert_close(codec.read_image(tmp_path / "x.png"), expected)


def test_read_image_reads_palettes(tmp_path):
  image = Image.fromarray(quarters()).quantize(4)
  image.save(tmp_path / "x.png")
  assert_close(codec.read_image(tmp_path / "x.png"), quarters(), 1)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 3), (2, 3, 4)])
def test_read_image_scales_16_bits_to_8(tmp_path, shape):
  levels = np.full(shape, 200 * 257 + 100, np.uint16)
  levels[..., 3:] = 65535
  cv2.imwrite(str(tmp_path / "x.png"), levels)
  assert_close(codec.read_image(tmp_path / "x.png"), np.full((2, 3, 3), 200))


def test_read_image_reads_cmyk_jpegs(tmp_path):
  image = Image.fromarray(quarters()).convert("CMYK")
  image.save(tmp_path / "x.jpg", quality=98, subsampling=0)
  assert_close(codec.read_image(tmp_path / "x.jpg"), quarters(), 6)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_read_image_refuses_a_truncated_file(tmp_path, suffix, share):
  path = tmp_path / f"x.{suffix}"
  cv2.imwrite(str(path), noise(40, 40, 3))
  data = path.read_bytes()
  path.write_bytes(data[: int(share * len(data))])
  with pytest.raises(UserError, match=rf"x\.{suffix}.*damaged, incomplete"):
    codec.read_image(path)


def test_read_image_explains_what_is_wrong_in_one_line(tmp_path):
  (tmp_path / "text.png").write_text("no image")
  (tmp_path / "empty.png").write_bytes(b"")
  assert cv2.imwrite(str(tmp_path / "x.tiff"), np.zeros((4, 4), np.float32))
  reasons = {
    "text.png": "damaged",
    "empty.png": "is empty",
    "x.tiff": "float32 pixels",
    "missing.png": "no such file",
    "": "is a folder and not a regular file",
  }
  for name, reason in reasons.items():
    with pytest.raises(UserError, match=f"{name}.*{reason}") as error:
      codec.read_image(tmp_path / name)
    assert "\n" not in str(error.value)


def test_read_image_prints_nothing_to_stderr(tmp_path, capfd):
  (tmp_path / "x.png").write_bytes(codec.encode_png(quarters())[:60])
  with pytest.raises(UserError):
    codec.read_image(tmp_path / "x.png")
  assert capfd.readouterr().err == ""


# decode_image


def _encoded(image, kind="JPEG", **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def _smooth(height=60, width=90):
  """Returns an image that changes slowly, so that JPEG hardly changes it."""
  y, x = np.mgrid[0:height, 0:width]
  return np.stack([2 * x, 4 * y, 255 - x - y], -1).clip(0, 255).astype(np.uint8)


def test_decode_image_gives_the_same_as_read_image(tmp_path):
  data = _encoded(Image.fromarray(_smooth()))
  (tmp_path / "x.jpg").write_bytes(data)
  for channels in (1, 3):
    decoded = codec.decode_image(data, channels)
    assert_close(decoded, codec.read_image(tmp_path / "x.jpg", channels))


# The last byte of the Adobe marker tells how four components are stored.
_ADOBE = b"\xff\xee\x00\x0eAdobe"


def _stored_as(data, transform):
  """Changes the marker of a CMYK JPEG, or removes it if `transform` is None."""
  start = data.index(_ADOBE)
  end = start + 16
  if transform is None:
    return data[:start] + data[end:]
  return data[: end - 1] + bytes([transform]) + data[end:]


@pytest.mark.parametrize(
  "transform", [0, 2, None], ids=["CMYK", "YCCK", "bare"]
)
def test_decode_image_converts_cmyk_within_2_levels_of_pillow(transform):
  inks = np.stack([*np.moveaxis(_smooth(), -1, 0), _smooth()[::-1, :, 0]], -1)
  image = Image.fromarray(inks // 2, "CMYK")
  data = _stored_as(_encoded(image, quality=95, subsampling=0), transform)
  expected = Image.open(io.BytesIO(data))
  assert expected.mode == "CMYK"
  assert_close(codec.decode_image(data), np.asarray(expected.convert("RGB")), 2)


def test_decode_image_reads_gray_jpegs():
  gray = _smooth()[..., 0]
  data = _encoded(Image.fromarray(gray), quality=95)
  assert_close(codec.decode_image(data, 1)[..., 0], gray, 4)
  assert_close(
    codec.decode_image(data), codec.decode_image(data, 1).repeat(3, -1)
  )


def test_decode_image_goes_by_the_content_not_the_name(tmp_path):
  # One image of ImageNet is a PNG with this name.
  path = tmp_path / "n02105855_2933.JPEG"
  Image.fromarray(quarters()).save(path, "PNG")
  assert_close(
    codec.decode_image(path.read_bytes(), name=str(path)), quarters()
  )
  assert_close(codec.read_image(path), quarters())


def test_decode_image_scales_16_bits_to_8():
  levels = np.array([[0, 128, 129, 65535]], np.uint16)
  data = _encoded(Image.fromarray(levels), "PNG")
  # One level of 8 bits is 257 levels of 16 bits.
  assert_close(codec.decode_image(data, 1)[..., 0], np.array([[0, 0, 1, 255]]))


def test_decode_image_reads_palettes_with_transparency():
  image = Image.fromarray(quarters()).quantize(4)
  assert_close(codec.decode_image(_encoded(image, "PNG")), quarters(), 1)
  gray = image.getpixel((47, 31))
  clear = codec.decode_image(_encoded(image, "PNG", transparency=gray))
  assert_close(clear[:16], quarters()[:16], 1)
  assert_close(clear[16:, 24:], np.full((16, 24, 3), 255))


def test_decode_image_reads_images_of_one_bit():
  bits = np.array([[True, False, True]])
  data = _encoded(Image.fromarray(bits), "PNG")
  assert_close(codec.decode_image(data, 1)[..., 0], bits * 255)


def test_decode_image_composites_alpha_on_white():
  image = np.full((2, 2, 4), [100, 0, 200, 102], np.uint8)
  image[0, 0, 3] = 255
  out = codec.decode_image(_encoded(Image.fromarray(image), "PNG"))
  # 255 * 0.6 + 100 * 0.4 = 193, and so on.
  assert_close(out[1, 1], np.array([193, 153, 233]))
  assert_close(out[0, 0], np.array([100, 0, 200]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("part", [0, 2, 30, 0.5, 0.97])
def test_decode_image_names_a_truncated_image(kind, part):
  data = _encoded(Image.fromarray(noise(40, 40, 3)), kind)
  size = part if isinstance(part, int) else int(part * len(data))
  with pytest.raises(UserError, match=r"train/7\.JPEG.*damaged") as error:
    codec.decode_image(data[:size], name="train/7.JPEG")
  assert "\n" not in str(error.value)


def test_decode_image_calls_an_image_without_a_name_the_image():
  with pytest.raises(UserError, match="the image cannot be read"):
    codec.decode_image(b"\xff\xd8nothing")


# to_channels


def test_to_channels_refuses_other_channels_and_shapes():
  with pytest.raises(ValueError, match="must be 1 or 3, got 4"):
    codec.to_channels(np.zeros((2, 2, 3), np.uint8), 4)
  for shape in ((2,), (2, 2, 2), (1, 2, 2, 3)):
    with pytest.raises(ValueError, match="not a gray, RGB or RGBA image"):
      codec.to_channels(np.zeros(shape, np.uint8), 3)


# encode_png


@pytest.mark.parametrize("channels", [1, 3])
def test_encode_png_is_lossless(tmp_path, channels):
  rng = np.random.default_rng(1)
  image = rng.integers(0, 256, (5, 7, channels), np.uint8)
  (tmp_path / "x.png").write_bytes(codec.encode_png(image))
  assert_close(codec.read_image(tmp_path / "x.png", channels), image)


def test_encode_png_keeps_alpha_and_the_order_of_channels(tmp_path):
  image = np.full((2, 2, 4), [1, 2, 3, 4], np.uint8)
  (tmp_path / "x.png").write_bytes(codec.encode_png(image))
  with Image.open(tmp_path / "x.png") as stored:
    assert_close(np.asarray(stored), image)


def test_encode_png_refuses_floats():
  with pytest.raises(ValueError, match="must be uint8, got float64"):
    codec.encode_png(np.zeros((2, 2)))


def _png(width, height):
  """Returns a small PNG file of a large black image."""

  def chunk(kind, data):
    body = kind + data
    return (
      struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    )

  header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
  pixels = zlib.compress(bytes((width + 1) * height), 1)
  parts = chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
  return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _jpeg(width, height):
  """Returns a JPEG file whose header tells another size."""
  data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16), np.uint8))[1])
  start = data.index(b"\xff\xc0") + 5
  data[start : start + 4] = struct.pack(">HH", height, width)
  return bytes(data)


def _gif(width, height):
  screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
  image = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0)
  return b"GIF89a" + screen + image + b"\x02\x02\x44\x01\x00;"


@pytest.mark.parametrize("make", [_png, _jpeg, _gif])
def test_images_of_too_many_pixels_are_refused_before_decoding(make):
  start = time.monotonic()
  with pytest.raises(UserError, match="OPENCV_IO_MAX_IMAGE_PIXELS"):
    codec.decode_image(make(9_000, 9_000))
  assert time.monotonic() - start < 2


def test_a_pipe_is_refused(tmp_path):
  os.mkfifo(tmp_path / "x.png")
  with pytest.raises(UserError, match="a pipe and not a regular file"):
    codec.read_image(tmp_path / "x.png")

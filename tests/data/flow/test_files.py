import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perceiver_jax.data.flow.files import read_flow, write_flow
from perceiver_jax.errors import UserError

_SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(2))


def _flows(low, high):
  values = st.floats(low, high, width=32) | st.just(np.nan)
  return hnp.arrays(np.float32, _SHAPES, elements=values)


def _whole_pixels(flow):
  """Marks pixels with one unknown component as unknown."""
  return np.where(np.isnan(flow).any(axis=2, keepdims=True), np.nan, flow)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("flow")


@pytest.mark.parametrize("suffix", ["flo", "pfm", "FLO"])
@settings(deadline=None)
@given(flow=_flows(-1e9, 1e9))
def test_float_formats_are_lossless(folder, suffix, flow):
  write_flow(folder / f"x.{suffix}", flow)
  back = read_flow(folder / f"x.{suffix}")
  assert back.dtype == np.float32
  np.testing.assert_array_equal(back, _whole_pixels(flow))


@settings(deadline=None)
@given(flow=_flows(-512, 511.984375))
def test_kitti_files_round_to_the_nearest_64th_of_a_pixel(folder, flow):
  write_flow(folder / "x.png", flow)
  back = read_flow(folder / "x.png")
  assert back.dtype == np.float32
  np.testing.assert_allclose(back, _whole_pixels(flow), atol=1 / 128, rtol=0)


# Byte by byte, as the descriptions of the formats have it.


def test_flo_files_have_the_middlebury_layout(tmp_path):
  values = [1.5, -2.0, 1e10, 1e10, 0.25, -1e9]
  data = b"PIEH" + struct.pack("<2i6f", 3, 1, *values)
  (tmp_path / "x.flo").write_bytes(data)
  flow = read_flow(str(tmp_path / "x.flo"))
  expected = [[[1.5, -2.0], [np.nan, np.nan], [0.25, -1e9]]]
  np.testing.assert_array_equal(flow, np.float32(expected))
  write_flow(tmp_path / "y.flo", flow)
  assert (tmp_path / "y.flo").read_bytes() == data


@pytest.mark.parametrize("value", [np.nan, np.inf, -2e9])
def test_an_unknown_component_in_flo_makes_the_pixel_unknown(tmp_path, value):
  data = b"PIEH" + struct.pack("<2i4f", 2, 1, value, 1, 2, 3)
  (tmp_path / "x.flo").write_bytes(data)
  flow = read_flow(tmp_path / "x.flo")
  np.testing.assert_array_equal(flow, [[[np.nan, np.nan], [2, 3]]])


def test_kitti_stores_x_in_red_y_in_green_valid_in_blue(tmp_path):
  image = np.zeros((1, 2, 3), np.uint16)
  image[0, 0] = (1, 2**15 - 32, 2**15 + 64)  # OpenCV: blue, green, red
  image[0, 1] = (0, 2**15, 2**15)
  cv2.imwrite(str(tmp_path / "x.png"), image)
  flow = read_flow(tmp_path / "x.png")
  np.testing.assert_array_equal(flow, [[[1, -0.5], [np.nan, np.nan]]])


@pytest.mark.parametrize(("order", "scale"), [("<", "-1.0"), (">", "2")])
def test_pfm_rows_run_from_bottom_to_top_in_either_byte_order(
  tmp_path, order, scale
):
  data = f"PF\n1 2\n{scale}\n".encode()
  data += struct.pack(order + "6f", 1, 2, 0, 3, 4, 0)
  (tmp_path / "x.pfm").write_bytes(data)
  np.testing.assert_array_equal(
    read_flow(tmp_path / "x.pfm"), [[[3, 4]], [[1, 2]]]
  )


def test_pfm_headers_may_have_windows_line_ends(tmp_path):
  data = b"PF\r\n1 1\r\n-1\r\n" + struct.pack("<3f", 1, 2, 0)
  (tmp_path / "x.pfm").write_bytes(data)
  np.testing.assert_array_equal(read_flow(tmp_path / "x.pfm"), [[[1, 2]]])


# Files that cannot be read


def _assert_refused(path, message):
  with pytest.raises(UserError, match=message) as error:
    read_flow(path)
  assert path.name in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["flo", "png", "pfm"])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_truncated_files_are_refused(folder, suffix, data):
  path = folder / f"t.{suffix}"
  flow = np.random.default_rng(0).normal(size=(5, 7, 2)).astype(np.float32)
  write_flow(path, flow)
  whole = path.read_bytes()
  path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
  _assert_refused(path, "does not start|not a PNG|incomplete|cannot be|follow")


@pytest.mark.parametrize("suffix", ["flo", "png", "pfm"])
@settings(deadline=None, max_examples=60)
@given(data=st.binary(max_size=60))
def test_arbitrary_bytes_are_refused(folder, suffix, data):
  path = folder / f"b.{suffix}"
  path.write_bytes(data)
  _assert_refused(path, "does not start|not a PNG")


def test_a_header_with_a_huge_size_is_refused_before_memory_is_allocated(
  tmp_path,
):
  large = 2**31 - 1
  (tmp_path / "x.flo").write_bytes(b"PIEH" + struct.pack("<2i", large, large))
  _assert_refused(tmp_path / "x.flo", "2147483647 x 2147483647.* but 0 follow")
  (tmp_path / "x.pfm").write_bytes(b"PF\n999999999 999999999\n-1\n")
  _assert_refused(tmp_path / "x.pfm", "but 0 follow")
  header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">2i", large, large)
  (tmp_path / "x.png").write_bytes(header + bytes([16, 2, 0, 0, 0]))
  _assert_refused(tmp_path / "x.png", "cannot be 2147483647 x 2147483647")


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (-1, -4)])
def test_sizes_below_one_are_refused(tmp_path, size):
  data = b"PIEH" + struct.pack("<2i", *size) + bytes(32)
  (tmp_path / "x.flo").write_bytes(data)
  _assert_refused(
    tmp_path / "x.flo", f"header says {size[0]} x {size[1]} pixels"
  )


def test_images_that_are_not_flow_are_refused(tmp_path):
  path = tmp_path / "x.png"
  cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))
  _assert_refused(path, "8 bits per channel and PNG color type 2")
  cv2.imwrite(str(path), np.zeros((4, 4), np.uint16))
  _assert_refused(path, "16 bits per channel and PNG color type 0")
  (tmp_path / "x.pfm").write_bytes(b"Pf\n1 1\n-1\n\0\0\0\0")
  _assert_refused(tmp_path / "x.pfm", r"one channel \(disparity")
  (tmp_path / "x.pfm").write_bytes(b"PF\n1 1\n-e\n\0\0\0\0")
  _assert_refused(tmp_path / "x.pfm", "scale is '-e'")


def test_missing_files_folders_and_unknown_suffixes_are_refused(tmp_path):
  _assert_refused(tmp_path / "x.flo", "no such file")
  (tmp_path / "folder.png").mkdir()
  _assert_refused(tmp_path / "folder.png", "is a folder and not a regular file")
  for name in ("x.jpg", "x"):
    _assert_refused(tmp_path / name, r"in \.flo, \.png, \.pfm files, not")


# Flow that cannot be written


@pytest.mark.parametrize(
  ("name", "value"),
  [("x.png", 512), ("x.png", -512.1), ("x.flo", 1.1e9), ("x.pfm", np.inf)],
)
def test_flow_out_of_range_is_refused_and_nothing_written(
  tmp_path, name, value
):
  with pytest.raises(UserError, match=f"does not fit into '{name}'"):
    write_flow(tmp_path / name, np.full((2, 2, 2), value))
  assert not list(tmp_path.iterdir())


def test_write_flow_refuses_other_suffixes_and_shapes(tmp_path):
  with pytest.raises(UserError, match=r"not '\.gif'"):
    write_flow(tmp_path / "x.gif", np.zeros((2, 2, 2)))
  for shape in ((2, 2), (2, 2, 3), (0, 2, 2)):
    with pytest.raises(ValueError, match=r"\[H, W, 2\] and not empty"):
      write_flow(tmp_path / "x.flo", np.zeros(shape))


def test_writing_to_a_missing_folder_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"cannot write .*x\.flo.*no such file"):
    write_flow(tmp_path / "missing" / "x.flo", np.zeros((2, 2, 2)))


def test_a_png_of_too_many_pixels_is_refused(tmp_path):
  header = struct.pack(">IIBBBBB", 9_000, 9_000, 16, 2, 0, 0, 0)
  body = b"IHDR" + header
  chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
  pixels = b"IDAT" + bytes(2**20)
  data = struct.pack(">I", 2**20) + pixels
  data += struct.pack(">I", zlib.crc32(pixels))
  path = tmp_path / "x.png"
  path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + data)
  with pytest.raises(UserError, match="OPENCV_IO_MAX_IMAGE_PIXELS"):
    read_flow(path)

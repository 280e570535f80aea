"""Reads and writes optical flow: Middlebury's .flo, KITTI's .png and .pfm.

Flow is float32 [H, W, 2]: the displacement of each pixel of the first frame, x
(right) then y (down), in pixels. Unknown flow is NaN in every format. Sizes in
headers are checked against the file before memory is allocated.
"""

import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from perceiver_jax import files
from perceiver_jax.data.images import codec
from perceiver_jax.errors import UserError

_FLO_MAGIC = struct.pack("<f", 202021.25)
# In Middlebury's format, larger values mark unknown flow; we write 1e10.
_FLO_LARGEST = 1e9
_FLO_UNKNOWN = 1e10
_PNG_HEADER = re.compile(
  rb"\x89PNG\r\n\x1a\n\0\0\0\rIHDR(.{4})(.{4})(.)(.)", re.DOTALL
)
_PNG_RGB = 2
_DEFLATE_MOST = 1032  # Maximum compression ratio of a PNG.
_KITTI_SCALE = 64.0
_KITTI_ZERO = 2.0**15
_PFM_HEADER = re.compile(
  rb"(P[Ff])\s+(\d{1,9})\s+(\d{1,9})\s+([-+.eE\d]{1,30})(?:\r\n|\s)"
)


class _DamagedError(Exception):
  """The bytes violate the format, as the message explains."""


def read_flow(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads optical flow in the format of the file's suffix.

  Args:
    path: a .flo (Middlebury, Sintel), 16-bit .png (KITTI) or .pfm file.

  Returns:
    float32 [H, W, 2]; NaN where the flow is unknown.

  Raises:
    UserError: the file is missing, damaged, incomplete or of another format.
  """
  kind = _format(path)
  try:
    data = files.read_bytes(path)
  except OSError as error:
    reason = (error.strerror or type(error).__name__).lower()
    raise UserError(
      f"cannot read the flow {str(path)!r}: {reason}; give the path of a "
      f"{_SUFFIXES} file"
    ) from error
  try:
    flow = kind.read(data)
  except _DamagedError as error:
    raise UserError(
      f"{str(path)!r} cannot be read as optical flow: {error}; replace or "
      "remove it"
    ) from error
  unknown = ~np.isfinite(flow).all(axis=2, keepdims=True)
  return np.where(unknown, np.float32(np.nan), flow)


def write_flow(path: str | os.PathLike[str], flow: np.ndarray) -> None:
  """Writes optical flow in the format of the file's suffix.

  Args:
    path: path of a .flo or .pfm file, which store exact float32, or of a .png
      file, which rounds to 1/64 pixel.
    flow: [H, W, 2]; NaN where the flow is unknown.

  Raises:
    UserError: the format is unknown or can't represent the flow, or the file
      can't be written.
    ValueError: `flow` has an invalid shape.
  """
  kind = _format(path)
  if flow.ndim != 3 or flow.shape[2] != 2 or not flow.size:
    raise ValueError(f"flow is [H, W, 2] and not empty, got {flow.shape}")
  unknown = np.isnan(flow).any(axis=2)
  known = flow[~unknown]
  low, high = known.min(initial=0), known.max(initial=0)
  if low < kind.low or high > kind.high:
    raise UserError(
      f"flow from {low:g} to {high:g} pixels does not fit into "
      f"{Path(path).name!r}: {Path(path).suffix} holds {kind.low:g} to "
      f"{kind.high:g}"
    )
  flow = np.where(unknown[..., None], np.nan, flow).astype(np.float32)
  try:
    files.write_bytes(path, kind.write(flow, unknown))
  except OSError as error:
    reason = (error.strerror or type(error).__name__).lower()
    raise UserError(
      f"cannot write the flow {str(path)!r}: {reason}; give another path"
    ) from error


def _read_flo(data: bytes) -> np.ndarray:
  if len(data) < 12 or not data.startswith(_FLO_MAGIC):
    raise _DamagedError("it does not start as a .flo file does")
  width, height = struct.unpack("<2i", data[4:12])
  flow = _floats(data[12:], (height, width, 2), "<f4")
  # The comparison is also False for NaN.
  return np.where(np.abs(flow) <= _FLO_LARGEST, flow, np.float32(np.nan))


def _write_flo(flow: np.ndarray, unknown: np.ndarray) -> bytes:
  height, width = unknown.shape
  values = np.where(unknown[..., None], np.float32(_FLO_UNKNOWN), flow)
  header = _FLO_MAGIC + struct.pack("<2i", width, height)
  return header + values.astype("<f4").tobytes()


def _read_kitti(data: bytes) -> np.ndarray:
  match = _PNG_HEADER.match(data)
  if not match:
    raise _DamagedError("it is not a PNG file")
  width, height = (int.from_bytes(size, "big") for size in match.groups()[:2])
  depth, colors = match[3][0], match[4][0]
  if (depth, colors) != (16, _PNG_RGB):
    raise _DamagedError(
      f"it has {depth} bits per channel and PNG color type {colors}; KITTI "
      "flow has 16 bits and type 2 (RGB)"
    )
  if width * height * 6 > len(data) * _DEFLATE_MOST:
    raise _DamagedError(f"{len(data):,} bytes cannot be {width} x {height}")
  try:
    image = codec.imdecode(data, cv2.IMREAD_UNCHANGED)
  except codec.TooManyPixelsError as error:
    raise _DamagedError(f"it {error}") from error
  if image is None:
    raise _DamagedError("the PNG is damaged or incomplete")
  # OpenCV's channels blue, green, red are valid, y, x.
  # 16 bits are exact in float32, which takes half the memory of float64.
  flow = image[..., :0:-1].astype(np.float32)
  flow = (flow - np.float32(_KITTI_ZERO)) / np.float32(_KITTI_SCALE)
  return np.where(image[..., :1] > 0, flow, np.float32(np.nan))


def _write_kitti(flow: np.ndarray, unknown: np.ndarray) -> bytes:
  levels = np.rint(flow.astype(np.float64) * _KITTI_SCALE + _KITTI_ZERO)
  image = np.concatenate([~unknown[..., None], levels[..., ::-1]], axis=2)
  image = np.where(unknown[..., None], 0, image).astype(np.uint16)
  return cv2.imencode(".png", image)[1].tobytes()


def _read_pfm(data: bytes) -> np.ndarray:
  match = _PFM_HEADER.match(data)
  if not match:
    raise _DamagedError("it does not start as a .pfm file does")
  if match[1] == b"Pf":
    raise _DamagedError("it has one channel (disparity?); flow has three")
  try:
    scale = float(match[4])
  except ValueError as error:
    raise _DamagedError(f"its scale is {match[4].decode()!r}") from error
  width, height = int(match[2]), int(match[3])
  # The sign of the scale gives the byte order.
  order = "<f4" if scale < 0 else ">f4"
  rows = _floats(data[match.end() :], (height, width, 3), order)
  return rows[::-1, :, :2]


def _write_pfm(flow: np.ndarray, unknown: np.ndarray) -> bytes:
  height, width = unknown.shape
  values = np.pad(flow[::-1], ((0, 0), (0, 0), (0, 1)))
  return b"PF\n%d %d\n-1\n" % (width, height) + values.astype("<f4").tobytes()


def _floats(data: bytes, shape: tuple[int, int, int], order: str) -> np.ndarray:
  """Returns the array in `data`, whose length must match the header."""
  height, width, channels = shape
  if height < 1 or width < 1:
    raise _DamagedError(f"its header says {width} x {height} pixels")
  if len(data) != 4 * height * width * channels:
    raise _DamagedError(
      f"its header says {width} x {height} pixels, "
      f"{4 * height * width * channels:,} bytes, but {len(data):,} follow"
    )
  return np.frombuffer(data, order).reshape(shape).astype(np.float32)


class _Format(NamedTuple):
  read: Callable[[bytes], np.ndarray]
  write: Callable[[np.ndarray, np.ndarray], bytes]
  low: float
  high: float


_FLOAT_LARGEST = float(np.finfo(np.float32).max)
_FORMATS = {
  ".flo": _Format(_read_flo, _write_flo, -_FLO_LARGEST, _FLO_LARGEST),
  ".png": _Format(_read_kitti, _write_kitti, -512.0, 511.984375),
  ".pfm": _Format(_read_pfm, _write_pfm, -_FLOAT_LARGEST, _FLOAT_LARGEST),
}
_SUFFIXES = ", ".join(_FORMATS)


def _format(path: str | os.PathLike[str]) -> _Format:
  suffix = Path(path).suffix.lower()
  if suffix not in _FORMATS:
    raise UserError(
      f"optical flow is stored in {_SUFFIXES} files, not {suffix!r}: {path!s}"
    )
  return _FORMATS[suffix]

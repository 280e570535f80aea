"""Reads meshes in the Object File Format (.off), that of ModelNet.

A file has the word OFF, the numbers of vertices, faces and edges, then a line
for each vertex and a line for each face: its number of corners and their
indices. In some files of ModelNet the numbers directly follow the word, as in
"OFF490 518 0". Colors and normals, which may follow on a line, are ignored.
"""

import io
import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from perceiver_jax import limits

# The letters announce texture coordinates, colors and normals.
_HEADER = re.compile(r"(?:ST)?C?N?OFF\b\s*|OFF(?=\d)")


def parse(data: bytes) -> tuple[np.ndarray, np.ndarray]:
  """Parses an OFF file in text format.

  Args:
    data: Bytes of the file.

  Returns:
    Vertices float32 [v, 3], and triangles int64 [f, 3]; a polygon with more
    than three corners becomes a fan of triangles.

  Raises:
    ValueError: The file is damaged, incomplete or too large; the message says
      how.
  """
  lines = _lines(data)
  first = next(lines, "")
  header = _HEADER.match(first)
  if not header:
    raise ValueError("it does not begin with OFF")
  num_vertices, num_faces = _counts(
    first[header.end() :].strip() or next(lines, "")
  )
  if num_vertices > limits.MAX_POINTS or num_faces > limits.MAX_TRIANGLES:
    raise ValueError(
      f"it has {num_vertices} vertices and {num_faces} faces, and at most"
      f" {limits.MAX_POINTS} and {limits.MAX_TRIANGLES} are read"
    )
  body = list(itertools.islice(lines, num_vertices + num_faces))
  if len(body) < num_vertices + num_faces:
    raise ValueError(
      f"it has {len(body)} lines for {num_vertices} vertices and"
      f" {num_faces} faces; it is incomplete"
    )
  return _vertices(body[:num_vertices]), _faces(body[num_vertices:])


def _lines(data: bytes) -> Iterator[str]:
  """Returns the lines that are not empty, without comments."""
  data = data.removeprefix(b"\xef\xbb\xbf")
  # Comments may have any encoding; all other text is ASCII.
  lines: Iterator[str] = io.TextIOWrapper(io.BytesIO(data), "latin-1")
  if b"#" in data:
    lines = (line.partition("#")[0] for line in lines)
  return filter(None, map(str.strip, lines))


def _counts(line: str) -> tuple[int, int]:
  """Returns the numbers of vertices and of faces."""
  # The number of edges is not used, and some writers leave it out.
  match = re.fullmatch(r"(\d{1,18})\s+(\d{1,18})(?:\s+\d+)?", line)
  if not match:
    raise ValueError(
      f"the numbers of vertices and faces are {line[:40]!r}; binary files are"
      " not supported"
    )
  return int(match[1]), int(match[2])


def _vertices(lines: list[str]) -> np.ndarray:
  """Returns float32 [v, 3]; what does not fit becomes infinite."""
  if not lines:
    return np.zeros((0, 3), np.float32)
  try:
    rows = np.loadtxt(lines, usecols=(0, 1, 2), ndmin=2)
  except ValueError as error:
    raise ValueError(f"a vertex is not three numbers: {error}") from error
  with np.errstate(over="ignore"):
    return rows.astype(np.float32)


def _faces(lines: list[str]) -> np.ndarray:
  """Returns the corners of all triangles, int64 [f, 3]."""
  try:
    if all(line.startswith("3 ") for line in lines):
      sizes = np.full(len(lines), 3)
    else:
      sizes = np.array([_num_corners(line) for line in lines], np.int64)
    num_triangles = np.maximum(sizes - 2, 0).sum()
    if num_triangles > limits.MAX_TRIANGLES:
      raise ValueError(
        f"there are {num_triangles:,} triangles, and at most"
        f" {limits.MAX_TRIANGLES:,} are read"
      )
    return _fans(lines, sizes)
  except (ValueError, OverflowError) as error:
    raise ValueError(f"a face is malformed: {error}") from error


def _num_corners(line: str) -> int:
  """Returns the number of corners at the beginning of a face's line."""
  size = int(line.split(None, 1)[0])
  # Each has a space and a digit.
  if not 0 <= size <= len(line) // 2:
    raise ValueError(f"{line[:40]!r}")
  return size


def _fans(lines: list[str], sizes: np.ndarray) -> np.ndarray:
  """Divides each polygon into a fan of triangles, in the order of the faces."""
  triangles, faces = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
  # Polygons of equal size are read at once.
  for size in np.unique(sizes[sizes > 2]):
    rows = np.flatnonzero(sizes == size)
    corners = _corners([lines[row] for row in rows], size)
    fan = np.stack(
      np.broadcast_arrays(corners[:, :1], corners[:, 1:-1], corners[:, 2:]), 2
    )
    triangles.append(fan.reshape(-1, 3))
    faces.append(np.repeat(rows, size - 2))
  order = np.argsort(np.concatenate(faces), kind="stable")
  return np.concatenate(triangles)[order]


def _corners(lines: Sequence[str], size: int) -> np.ndarray:
  """Returns the indices of polygons of equal size, int64 [f, size]."""
  try:
    columns = range(1, size + 1)
    return np.loadtxt(lines, np.int64, None, usecols=columns, ndmin=2)
  except ValueError as error:
    short = [line for line in lines if len(line.split()) <= size]
    raise ValueError(f"{short[0][:40]!r}" if short else str(error)) from error

"""Reads meshes in the Object File Format (.off), that of ModelNet.

A file has the word OFF, the numbers of vertices, faces and edges, then a line
for each vertex and a line for each face: its number of corners and their
indices. In some files of ModelNet the numbers directly follow the word, as in
"OFF490 518 0". Colors and normals, which may follow on a line, are ignored.
"""

import itertools
import re

import numpy as np

# The letters announce texture coordinates, colors and normals.
_HEADER = re.compile(r"(?:ST)?C?N?OFF\b\s*|OFF(?=\d)")


def parse(data: bytes) -> tuple[np.ndarray, np.ndarray]:
  """Parses an OFF file in text format.

  Args:
    data: bytes of the file.

  Returns:
    Vertices float32 [v, 3], and triangles int64 [f, 3]; a polygon with more
    than three corners becomes a fan of triangles.

  Raises:
    ValueError: the file is damaged or incomplete; the message says how.
  """
  lines = _lines(data)
  header = _HEADER.match(lines[0]) if lines else None
  if not header:
    raise ValueError("it does not begin with OFF")
  rest = lines[0][header.end() :].strip()
  lines = ([rest] if rest else []) + lines[1:]
  num_vertices, num_faces = _counts(lines[0] if lines else "")
  body = lines[1:]
  if len(body) < num_vertices + num_faces:
    raise ValueError(
      f"it has {len(body)} lines for {num_vertices} vertices and"
      f" {num_faces} faces; it is incomplete"
    )
  faces = body[num_vertices : num_vertices + num_faces]
  return _vertices(body[:num_vertices]), _faces(faces)


def _lines(data: bytes) -> list[str]:
  """Returns the lines that are not empty, without comments."""
  # Comments may have any encoding; all other text is ASCII.
  text = data.decode("latin-1").lstrip("\xef\xbb\xbf")
  if "#" in text:
    text = re.sub("#.*", "", text)
  lines = (line.strip() for line in text.splitlines())
  return [line for line in lines if line]


def _counts(line: str) -> tuple[int, int]:
  """Returns the numbers of vertices and of faces."""
  words = line.split()
  # The number of edges is not used, and some writers leave it out.
  if len(words) not in (2, 3) or not all(
    re.fullmatch(r"\d+", w) for w in words
  ):
    raise ValueError(
      f"the numbers of vertices and faces are {line[:40]!r}; binary files are"
      " not supported"
    )
  return int(words[0]), int(words[1])


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
    if lines and all(line.startswith("3 ") for line in lines):
      columns = 1, 2, 3
      return np.loadtxt(lines, np.int64, None, usecols=columns, ndmin=2)
    return _fans(lines)
  except (ValueError, OverflowError) as error:
    raise ValueError(f"a face is malformed: {error}") from error


def _fans(lines: list[str]) -> np.ndarray:
  """Divides each polygon into a fan of triangles."""
  triangles = []
  for line in lines:
    size, *corners = line.split()
    if not 0 <= int(size) <= len(corners):
      raise ValueError(f"{line[:40]!r}")
    edges = itertools.pairwise(corners[1 : int(size)])
    triangles.extend((corners[0], *edge) for edge in edges)
  return np.array(triangles, np.int64).reshape(-1, 3)

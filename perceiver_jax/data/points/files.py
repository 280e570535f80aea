"""Reads files of meshes and of point clouds."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from perceiver_jax import files as file_opening
from perceiver_jax import limits
from perceiver_jax.data.core import records
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.points import off, sampling
from perceiver_jax.errors import UserError

_PLY_ELEMENT = re.compile(rb"^element\s+(\w+)\s+(\d+)", re.MULTILINE)


def read(path: Path) -> Example:
  """Reads a mesh or a point cloud, in the format of the file's suffix.

  Args:
    path: A mesh (.off, .obj, .ply, .stl), or points (.ply without faces; .xyz
      and .txt with a point in each line; .npy [n, 3]). Columns after the first
      three, such as normals, are ignored.

  Returns:
    `vertices` float32 [v, 3] and `faces` int32 [f, 3] of a mesh, with an area;
    or `points` float32 [n, 3], at least one.

  Raises:
    UserError: The file is missing, damaged, too large or of another format, or
      its format needs a package that is not installed.
  """
  suffix = path.suffix.lower()
  if suffix not in _READERS:
    raise UserError(
      f"{str(path)!r} has none of the suffixes that are read:"
      f" {', '.join(_READERS)}; convert it"
    )
  data = _read_bytes(path)
  try:
    return _checked(_READERS[suffix](data, suffix))
  except UserError as error:
    raise UserError(f"{str(path)!r}: {error}") from error
  except ValueError as error:
    reason = " ".join(str(error).split())
    raise UserError(
      f"{str(path)!r} cannot be read: {reason}; replace or remove it"
    ) from error


def _read_bytes(path: Path) -> bytes:
  """Reads a regular file of limited size."""
  try:
    with file_opening.open_regular(path) as file:
      data = file.read(limits.MAX_OBJECT_BYTES + 1)
  except OSError as error:
    reason = (error.strerror or type(error).__name__).lower()
    raise UserError(f"cannot read {str(path)!r}: {reason}") from error
  if len(data) > limits.MAX_OBJECT_BYTES:
    raise UserError(
      f"{str(path)!r} has more than {limits.MAX_OBJECT_BYTES:,} bytes, the most"
      " that are read; simplify the mesh, or take fewer points"
    )
  return data


def _checked(example: Example) -> Example:
  """Checks the arrays of an object and converts their types.

  Raises:
    ValueError: The object is damaged or empty.
  """
  name = "points" if "points" in example else "vertices"
  with np.errstate(over="ignore"):
    points = np.asarray(example[name], np.float32)
  if not len(points):
    raise ValueError("it has no point")
  if len(points) > limits.MAX_POINTS:
    raise ValueError(
      f"it has {len(points):,} points, and at most {limits.MAX_POINTS:,} are"
      " read"
    )
  if not np.isfinite(points).all():
    raise ValueError("a coordinate is not a finite number of 32 bits")
  if name == "points":
    return {"points": points}
  faces = np.asarray(example["faces"], np.int64).reshape(-1, 3)
  if len(faces) > limits.MAX_TRIANGLES:
    raise ValueError(
      f"it has {len(faces):,} triangles, and at most {limits.MAX_TRIANGLES:,}"
      " are read"
    )
  wrong = faces[(faces < 0) | (faces >= len(points))]
  if wrong.size:
    raise ValueError(
      f"a face has the vertex {wrong[0]}, and there are {len(points)}"
    )
  if not sampling.triangle_areas(points, faces).any():
    raise ValueError("it has no surface: no face has an area")
  return {"vertices": points, "faces": faces.astype(np.int32)}


def _read_off(data: bytes, suffix: str) -> Example:
  del suffix
  vertices, faces = off.parse(data)
  return {"vertices": vertices, "faces": faces}


def _read_with_trimesh(data: bytes, suffix: str) -> Example:
  """Reads OBJ, PLY or STL; files that they refer to are not opened."""
  is_cloud = suffix == ".ply" and not _num_ply_faces(data)
  trimesh = _import_trimesh()
  if suffix == ".obj":
    data = _without_materials(data)
  try:
    scene = trimesh.load_scene(
      io.BytesIO(data), suffix[1:], process=False, skip_materials=True
    )
    geometries = list(scene.geometry.values())
  except MemoryError:
    raise  # The file may be whole, and the memory limited.
  # Of a damaged file it may raise any type.
  except Exception as error:
    raise ValueError(f"{type(error).__name__}: {error}") from error
  vertices, faces = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)]
  start = 0
  for each in geometries:
    vertices.append(np.asarray(each.vertices))
    own = np.asarray(getattr(each, "faces", ()), np.int64)
    faces.append(start + own.reshape(-1, 3))
    start += len(each.vertices)
  vertices = np.concatenate(vertices)
  if is_cloud:
    return {"points": vertices}
  return {"vertices": vertices, "faces": np.concatenate(faces)}


def _without_materials(data: bytes) -> bytes:
  """Removes the lines of materials from an OBJ file.

  The time that trimesh takes grows with the square of their number.
  """
  whole_lines = data.replace(b"\r\n", b"\n").replace(b"\\\n", b"")
  return b"\n".join(
    line
    for line in whole_lines.split(b"\n")
    if b"usemtl" not in line and b"mtllib" not in line
  )


def _num_ply_faces(data: bytes) -> int:
  """Returns the number of faces that the header of a PLY file announces.

  Raises:
    ValueError: It is a text file with fewer lines than announced, which
      trimesh does not report.
  """
  header, end, body = data.partition(b"end_header")
  counts = {name: int(count) for name, count in _PLY_ELEMENT.findall(header)}
  if end and re.search(rb"^format\s+ascii", header, re.MULTILINE):
    num_lines = sum(bool(line.strip()) for line in body.splitlines())
    if num_lines < sum(counts.values()):
      raise ValueError(
        f"it has {num_lines} lines for {sum(counts.values())} elements; it is"
        " incomplete"
      )
  return counts.get(b"face", 0)


def _import_trimesh() -> ModuleType:
  try:
    import trimesh
  except ImportError as error:
    raise UserError(
      "OBJ, PLY and STL need trimesh: pip install 'perceiver_jax[points]'; or"
      " convert it to OFF"
    ) from error
  return trimesh


def _read_text(data: bytes, suffix: str) -> Example:
  """Reads a point in each line; numbers are separated by commas or spaces."""
  del suffix
  if not data.strip():
    raise ValueError("it is empty")
  num_lines = max(data.count(b"\n"), data.count(b"\r"))
  if num_lines > limits.MAX_POINTS:
    raise ValueError(
      f"it has {num_lines:,} lines, and at most {limits.MAX_POINTS:,} are read"
    )
  file = io.TextIOWrapper(io.BytesIO(data.replace(b",", b" ")), "latin-1")
  points = np.loadtxt(file, usecols=(0, 1, 2), ndmin=2)
  return {"points": points}


def _read_npy(data: bytes, suffix: str) -> Example:
  del suffix
  points = records.decode_array(data)
  if points.ndim != 2 or points.shape[1] < 3:
    raise ValueError(
      f"it is an array {list(points.shape)} of {points.dtype}; give numbers"
      " [n, 3]"
    )
  return {"points": points[:, :3]}


_READERS: dict[str, Callable[[bytes, str], Example]] = {
  ".off": _read_off,
  ".obj": _read_with_trimesh,
  ".ply": _read_with_trimesh,
  ".stl": _read_with_trimesh,
  ".xyz": _read_text,
  ".txt": _read_text,
  ".npy": _read_npy,
}
SUFFIXES = tuple(_READERS)
MESH_SUFFIXES = (".off", ".obj", ".ply", ".stl")

"""Times reading objects: python -m scripts.benchmark.points.

Prints a row for meshes in OFF files, one for text files of 10,000 points as in
modelnet40_normal_resampled, and one for prepared files of 10,000 points. Each
reads an object and takes 2,048 points of it. The columns are milliseconds of
one core and kilobytes per object. The benchmark measures processor time, so
that other load on the machine hardly matters.

The objects are ellipsoids of about --num_triangles.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from experiments import launch
from experiments.predictions import outputs
from perceiver_jax import files
from perceiver_jax.data.core import record_writer, records
from perceiver_jax.data.points import sampling, sources
from perceiver_jax.data.points import shards as point_shards
from scripts.benchmark import timing

_NUM_OBJECTS = flags.DEFINE_integer(
  "num_objects", 16, "Number of objects.", lower_bound=1
)
_NUM_TRIANGLES = flags.DEFINE_integer(
  "num_triangles", 20_000, "Triangles of an ellipsoid.", lower_bound=8
)
_JSON = flags.DEFINE_string("json", "", "File to write the figures to.")

_NUM_STORED, _NUM_POINTS = 10_000, 2048


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  launch.no_arguments(argv)
  if _JSON.value:
    outputs.check_writable(files.as_path(_JSON.value), "another --json")
  rows = []
  with tempfile.TemporaryDirectory() as name:
    root = Path(name)
    _write(root)
    for title, source, pattern in (
      ("OFF", "mesh_folder", "*/*/*.off"),
      ("text", "resampled_text", "ellipsoid/*.txt"),
      ("prepared", "shards", "*.array_record"),
    ):
      size = sum(path.stat().st_size for path in root.glob(pattern))
      rows.append(
        {
          "objects": title,
          "ms/object": _milliseconds(source, name),
          "kB/object": size / _NUM_OBJECTS.value / 1000,
        }
      )
  print(timing.table(rows))
  if _JSON.value:
    files.write_text(_JSON.value, json.dumps(rows, indent=2))


def _milliseconds(source: str, directory: str) -> float:
  """Returns the processor time of reading and sampling an object."""
  objects = sources.make_source(source, split="train", directory=directory)
  rng = np.random.default_rng(0)
  sampling.sample(objects[0], _NUM_POINTS, rng)  # Opens the files.
  start = time.process_time()
  for i in range(len(objects)):
    sampling.sample(objects[i], _NUM_POINTS, rng)
  return 1000 * (time.process_time() - start) / len(objects)


def _write(root: Path) -> None:
  """Writes ellipsoids in the layouts of the three sources."""
  meshes, texts = root / "ellipsoid" / "train", root / "ellipsoid"
  meshes.mkdir(parents=True)
  names = [f"ellipsoid_{i:04d}" for i in range(_NUM_OBJECTS.value)]
  rng = np.random.default_rng(0)
  for name in names:
    vertices, faces = _ellipsoid(rng.uniform(0.5, 2, 3))
    lines = [f"OFF\n{len(vertices)} {len(faces)} 0"]
    lines += ["{:.6f} {:.6f} {:.6f}".format(*row) for row in vertices.tolist()]
    lines += ["3 {} {} {}".format(*row) for row in faces.tolist()]
    (meshes / f"{name}.off").write_text("\n".join(lines), encoding="ascii")
    points = sampling.sample_surface(vertices, faces, _NUM_STORED, rng)
    # Normals are not read, but they take time to parse.
    rows = np.hstack([points, points])
    np.savetxt(texts / f"{name}.txt", rows, "%.6f", ",")
  for kind, lines in (("train", names), ("shape_names", ["ellipsoid"])):
    path = root / f"modelnet40_{kind}.txt"
    path.write_text("\n".join(lines), encoding="ascii")
  source = sources.make_source(
    "mesh_folder", split="train", directory=str(root)
  )
  examples = point_shards.examples_to_write(
    source.source, point_shards.Settings(_NUM_STORED)
  )
  written = record_writer.write_split(root / "train.json", examples, 1, 1)
  contents = {
    "files": written.files,
    "names": names,
    "labels": [0] * len(names),
    "class_names": ["ellipsoid"],
  }
  records.write_json(root / "train.json", contents)


def _ellipsoid(radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns vertices and triangles of an ellipsoid."""
  rings = max(2, round((_NUM_TRIANGLES.value / 4) ** 0.5))
  theta = np.linspace(0, np.pi, rings + 1)[:, None]
  phi = np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False)
  xyz = np.broadcast_arrays(
    np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)
  )
  number = np.arange((rings + 1) * 2 * rings).reshape(rings + 1, 2 * rings)
  right = np.roll(number, -1, axis=1)
  corners = number[:-1], right[:-1], right[1:], number[1:]
  a, b, c, d = (x.ravel() for x in corners)
  faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
  return np.stack(xyz, -1).reshape(-1, 3) * radii, faces


if __name__ == "__main__":
  launch.run(main)

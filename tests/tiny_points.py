"""Writes small meshes and clouds in the formats of ModelNet40's releases."""

import itertools
from pathlib import Path

import numpy as np

CLASSES = ("cube", "night_stand")


def box(height=1.0):
  """Returns vertices [8, 3] and faces [6, 4] of a box."""
  vertices = np.float32(list(itertools.product([0, 1], [0, 1], [0, height])))
  faces = [
    [0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1],
    [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3],
  ]  # fmt: skip
  return vertices, np.array(faces)


def off(height=1.0, header="OFF\n8 6 0\n"):
  """Returns a box as an OFF file."""
  vertices, faces = box(height)
  lines = [" ".join(map(str, row)) for row in vertices]
  lines += [" ".join(map(str, [len(row), *row])) for row in faces]
  return header + "\n".join(lines) + "\n"


def write(path, data):
  """Writes text or bytes to a file, and returns its path."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(data if isinstance(data, bytes) else data.encode())
  return path


def write_modelnet(root, train=3, test=2):
  """Writes boxes as the meshes of ModelNet40: CLASS/SPLIT/CLASS_0001.off."""
  for name, height in zip(CLASSES, (1.0, 3.0), strict=True):
    numbers = itertools.count(1)
    for split, count in (("train", train), ("test", test)):
      for number in itertools.islice(numbers, count):
        file = f"{name}/{split}/{name}_{number:04d}.off"
        # The release has both kinds of headers.
        header = ("OFF\n8 6 0\n", "OFF8 6 0\n")[number % 2]
        write(root / file, off(height + 0.01 * number, header))
  return root


def cloud(seed, count=20):
  """Returns random points, float32 [count, 3]."""
  return np.random.default_rng(seed).normal(size=(count, 3)).astype("f4")


def write_resampled(root, train=3, test=2, count=20):
  """Writes clouds as in modelnet40_normal_resampled."""
  write(root / "modelnet40_shape_names.txt", "\n".join(CLASSES) + "\n")
  lists = {"train": [], "test": []}
  for label, name in enumerate(CLASSES):
    for number in range(train + test):
      file = f"{name}_{number + 1:04d}"
      lists["train" if number < train else "test"].append(file)
      rows = np.hstack([cloud([label, number], count)] * 2)
      text = "\n".join(",".join(f"{x:.6f}" for x in row) for row in rows)
      write(root / name / f"{file}.txt", text)
  for split, names in lists.items():
    # The lists of the release do not end with a line break.
    write(root / f"modelnet40_{split}.txt", "\n".join(names))
  return root


def write_hdf5(root, sizes=(3, 2), points=16):
  """Writes clouds as in modelnet40_ply_hdf5_2048, in a file of each size."""
  import h5py

  write(root / "shape_names.txt", "\n".join(CLASSES) + "\n")
  for split in ("train", "test"):
    paths = []
    for number, size in enumerate(sizes):
      path = root / f"ply_data_{split}{number}.h5"
      data = [cloud([len(split), number, i], points) for i in range(size)]
      with h5py.File(path, "w") as file:
        file.create_dataset("data", data=np.stack(data), compression="gzip")
        labels = np.arange(size, dtype=np.uint8)[:, None] % len(CLASSES)
        file.create_dataset("label", data=labels)
      paths.append(f"data/modelnet40_ply_hdf5_2048/{path.name}")
    write(root / f"{split}_files.txt", "\n".join(paths) + "\n")
  return root

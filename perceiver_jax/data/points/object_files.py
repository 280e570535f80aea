"""Objects in files of their own: ModelNet's meshes, and points as text."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from perceiver_jax import files as file_opening
from perceiver_jax.data.core import splits
from perceiver_jax.data.core.skip_unreadable import SkipUnreadable
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.points import files
from perceiver_jax.errors import UserError

_MESHES = f"*{{{','.join(files.MESH_SUFFIXES)}}}"
_FOLDER_EXPECTED = (
  f"expected DIRECTORY/CLASS/SPLIT/{_MESHES}, as in ModelNet40, or"
  f" DIRECTORY/SPLIT/CLASS/{_MESHES}"
)
_TEXT_EXPECTED = (
  "expected the folder modelnet40_normal_resampled with"
  " modelnet40_shape_names.txt, modelnet40_train.txt, modelnet40_test.txt and"
  " CLASS/CLASS_0001.txt"
)


class ObjectFiles:
  """Meshes or point clouds that are read from files when fetched.

  Args:
    paths: Path of each file.
    names: Name of each object, such as "chair/chair_0001".
    labels: Label of each object, an index of `class_names`.
    class_names: Name of each label.
  """

  in_memory = False

  def __init__(
    self,
    paths: Sequence[Path],
    names: Sequence[str],
    labels: Sequence[int],
    class_names: Sequence[str],
  ):
    self._paths = tuple(paths)
    self.names = tuple(names)
    self.labels = np.asarray(labels, np.int32)
    self.class_names = tuple(class_names)
    self.num_classes = len(self.class_names)

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Example:
    example = files.read(self._paths[index])
    return {**example, "label": self.labels[index]}


def mesh_folder(directory: str, split: str) -> SkipUnreadable:
  """Returns the meshes of a folder per class.

  They are `directory/CLASS/SPLIT/*.off`, as in ModelNet40, or
  `directory/SPLIT/CLASS/*.off`; other formats of meshes may be among them. A
  class is any with a mesh in any split. Names that start with a dot are
  ignored.

  Args:
    directory: The folder.
    split: Name of a folder, such as "train", or a slice; see `splits`.

  Returns:
    A source of `vertices`, `faces`, `label` and the `unreadable` of
    `SkipUnreadable`.

  Raises:
    UserError: The directory or the split is missing, or has no mesh.
  """
  root = check_directory(directory, "mesh_folder", _FOLDER_EXPECTED)
  selected = splits.parse(split)
  meshes = [
    path
    for path in sorted(root.glob("*/*/*"))
    if path.suffix.lower() in files.MESH_SUFFIXES
    and not any(p.startswith(".") for p in path.relative_to(root).parts)
  ]
  outer, inner = ({path.parts[depth] for path in meshes} for depth in (-3, -2))
  if (selected.name in outer) == (selected.name in inner):
    raise UserError(
      f"the split {selected.name!r} has to be either a folder in {str(root)!r}"
      f" ({_listed(outer)}) or one in those ({_listed(inner)});"
      f" {_FOLDER_EXPECTED}"
    )
  split_depth, class_depth = -3, -2
  if selected.name in inner:
    split_depth, class_depth = -2, -3
  own = [path for path in meshes if path.parts[split_depth] == selected.name]
  return _source(
    selected,
    own,
    [path.parts[class_depth] for path in own],
    sorted({path.parts[class_depth] for path in meshes}),
  )


def resampled_text(
  directory: str, split: str, prefix: str = "modelnet40"
) -> SkipUnreadable:
  """Returns the clouds of the release modelnet40_normal_resampled.

  An object is a text file of 10,000 lines x,y,z,nx,ny,nz, of which the normals
  are not used.

  Args:
    directory: The folder.
    split: "train" or "test", or a slice; see `splits`.
    prefix: Beginning of the names of the lists; "modelnet10" for the 10 classes
      that the release lists too.

  Returns:
    A source of `points` float32 [n, 3], `label` and the `unreadable` of
    `SkipUnreadable`. A listed file that is missing counts as unreadable.

  Raises:
    UserError: The directory or a list is missing, or names an unknown class.
  """
  root = check_directory(directory, "resampled_text", _TEXT_EXPECTED)
  selected = splits.parse(split)
  class_names = read_lines(root / f"{prefix}_shape_names.txt", _TEXT_EXPECTED)
  names = read_lines(root / f"{prefix}_{selected.name}.txt", _TEXT_EXPECTED)
  for name in (*class_names, *names):
    if not file_opening.is_name(name):
      raise UserError(
        f"a list in {str(root)!r} has the name {name!r}; the names of classes"
        " and objects are without folders"
      )
  classes = [name.rpartition("_")[0] for name in names]
  unknown = sorted(set(classes) - set(class_names))
  if unknown:
    raise UserError(
      f"{prefix}_{selected.name}.txt in {str(root)!r} has the class"
      f" {unknown[0]!r}, which is not in {prefix}_shape_names.txt"
    )
  paths = [
    root / class_name / f"{name}.txt"
    for class_name, name in zip(classes, names, strict=True)
  ]
  return _source(selected, paths, classes, class_names)


def read_lines(path: Path, expected: str) -> list[str]:
  """Returns the lines of a list that are not empty.

  Args:
    path: The list.
    expected: Description of the layout, for the error.

  Raises:
    UserError: It can't be read, or is empty.
  """
  try:
    lines = file_opening.read_text(path).splitlines()
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, "strerror", None) or "it is not text"
    raise UserError(
      f"cannot read {str(path)!r}: {reason.lower()}; {expected}"
    ) from error
  names = [line.strip() for line in lines if line.strip()]
  if not names:
    raise UserError(f"{str(path)!r} is empty; {expected}")
  return names


def check_directory(directory: str, source: str, expected: str) -> Path:
  """Returns a directory that exists.

  Args:
    directory: Its path.
    source: Name of the source, for the error.
    expected: Description of the layout, for the error.

  Raises:
    UserError: There is no such directory.
  """
  # An unset config leaf; Path would make "" the current directory.
  if not directory:
    raise UserError(
      "no directory is given; set"
      f" config.data.source_args.{source}.directory, {expected}"
    )
  root = file_opening.local_folder(directory)
  if not root.is_dir():
    raise UserError(f"no directory {str(root)!r}; {expected}")
  return root


def _source(
  selected: splits.Split,
  paths: Sequence[Path],
  classes: Sequence[str],
  class_names: Sequence[str],
) -> SkipUnreadable:
  """Returns the objects of a split or of a slice of it."""
  names = [
    f"{class_name}/{path.stem}"
    for class_name, path in zip(classes, paths, strict=True)
  ]
  label = {name: i for i, name in enumerate(class_names)}
  order = selected.order(names)
  return SkipUnreadable(
    ObjectFiles(
      [paths[i] for i in order],
      [names[i] for i in order],
      [label[classes[i]] for i in order],
      class_names,
    ),
    kind="object",
  )


def _listed(names: Iterable[str]) -> str:
  return ", ".join(sorted(names)) or "none"

"""Optical flow data sets in their original folders.

Nothing is downloaded. Pairs are read on access; see `sources` for their format.
"""

import glob
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perceiver_jax import files
from perceiver_jax.checks import check_choice
from perceiver_jax.data.core import splits
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.flow import files as flow_files
from perceiver_jax.data.images import codec
from perceiver_jax.errors import UserError

# Every 200th of AutoFlow's 40,000 pairs is in the test split.
_AUTOFLOW_STRIDE = 200
# Every tenth pair of a user's own is in the test split.
_PAIRS_STRIDE = 10
_FLOW_SUFFIXES = (".flo", ".pfm", ".png")
# All known flow, and the part that is visible in the second frame.
_KITTI_FLOW = ("flow_occ", "flow_noc")
# The folder of the frames.
_KITTI_YEARS = {"2012": "colored_0", "2015": "image_2"}


class Files(NamedTuple):
  """Paths of one pair.

  Attributes:
    first: first frame.
    second: second frame.
    flow: see `files`; None if the ground truth is not published.
    occlusion: image that is black where nothing is occluded, or None.
    visible_flow: flow of the pixels that are not occluded, or None.
    name: name of the pair in benchmarks, such as "alley_1/frame_0001".
  """

  first: Path
  second: Path
  flow: Path | None
  occlusion: Path | None = None
  visible_flow: Path | None = None
  name: str = ""


class FlowFolder:
  """Pairs read from files.

  Args:
    files: paths of each pair.
  """

  in_memory = False

  def __init__(self, files: Sequence[Files]):
    self.files = tuple(files)
    self.has_ground_truth = all(pair.flow is not None for pair in self.files)
    self.knows_occlusion = all(
      pair.occlusion or pair.visible_flow for pair in self.files
    )

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> Example:
    """Reads a pair.

    Raises:
      UserError: a file is missing or damaged, or the sizes differ.
    """
    files = self.files[index]
    frames = [codec.read_image(path) for path in files[:2]]
    if frames[0].shape != frames[1].shape:
      raise UserError(
        f"{files.first} and {files.second} differ in size; replace them"
      )
    size = frames[0].shape[:2]
    flow = np.full((*size, 2), np.nan, np.float32)
    if files.flow is not None:
      flow = _of_size(flow_files.read_flow(files.flow), size, files.flow)
    return {
      "frames": np.stack(frames),
      "flow": flow,
      "occluded": _occlusion(files, flow, size),
    }


def autoflow(directory: str | os.PathLike[str], split: str) -> FlowFolder:
  """Opens the public AutoFlow release (40,000 pairs).

  Args:
    directory: contains, or is one of, `static_40k_png_1_of_4` to `_4_of_4`,
      which have a folder per pair, with im0.png, im1.png and forward.flo.
    split: "train" or "test"; "test" is every 200th pair, our own choice.

  Raises:
    UserError: the split is unknown, or there are no pairs.
  """
  check_choice(split, ("train", "test"), "split", "autoflow")
  root = _root(directory, "autoflow")
  folders = sorted(path.parent for path in root.rglob("forward.flo"))
  held_out = set(folders[::_AUTOFLOW_STRIDE])
  return _folder(
    root,
    "*/NAME/{im0.png,im1.png,forward.flo}",
    [
      Files(p / "im0.png", p / "im1.png", p / "forward.flo", name=p.name)
      for p in folders
      if (p in held_out) == (split == "test")
    ],
  )


def flying_chairs(directory: str | os.PathLike[str], split: str) -> FlowFolder:
  """Opens FlyingChairs (22,872 pairs), with its official split.

  Args:
    directory: holds `data/` and `FlyingChairs_train_val.txt`, in which 1 is
      training and 2 is validation.
    split: "train" or "test".

  Raises:
    UserError: the split is unknown, or the pairs or the list are missing.
  """
  check_choice(split, ("train", "test"), "split", "flying_chairs")
  root = _root(directory, "flying_chairs")
  flows = sorted(root.glob("data/*_flow.flo"))
  marks = _chairs_marks(root, len(flows))
  number = {"train": "1", "test": "2"}[split]
  files = []
  for path, mark in zip(flows, marks, strict=True):
    if mark == number:
      stem = path.name.removesuffix("_flow.flo")
      frames = (path.with_name(f"{stem}_img{i}.ppm") for i in (1, 2))
      files.append(Files(*frames, path, name=stem))
  return _folder(root, "data/*_{img1.ppm,img2.ppm,flow.flo}", files)


def sintel(
  directory: str | os.PathLike[str], split: str, render: str = "clean"
) -> FlowFolder:
  """Opens MPI Sintel: 1,041 training pairs and 552 test pairs.

  Args:
    directory: holds `training/` and `test/`.
    split: "train" (with ground truth and occlusion) or "test" (without).
    render: "clean" or "final".

  Raises:
    UserError: the split or rendering is unknown, or there are no pairs.
  """
  check_choice(split, ("train", "test"), "split", "sintel")
  check_choice(render, ("clean", "final"), "render", "sintel")
  root = _root(directory, "sintel")
  folder = root / {"train": "training", "test": "test"}[split]
  files = []
  for scene in sorted(p for p in folder.glob(f"{render}/*") if p.is_dir()):
    frames = sorted(scene.glob("frame_*.png"))
    for first, second in itertools.pairwise(frames):
      name = f"{scene.name}/{first.stem}"
      flow = folder / "flow" / f"{name}.flo" if split == "train" else None
      occlusion = folder / "occlusions" / f"{name}.png"
      occlusion = occlusion if flow and occlusion.exists() else None
      files.append(Files(first, second, flow, occlusion, name=name))
  return _folder(root, f"{folder.name}/{render}/SCENE/frame_*.png", files)


def kitti(
  directory: str | os.PathLike[str], split: str, year: str = "2015"
) -> FlowFolder:
  """Opens KITTI-2012 (194 training pairs) or KITTI-2015 (200).

  Flow is sparse. Pixels with flow in `flow_occ` but not in `flow_noc` are
  occluded. The test splits have similar sizes.

  Args:
    directory: holds `training/` and `testing/`.
    split: "train" (with ground truth) or "test" (without).
    year: "2012" or "2015"; the names of the folders differ.

  Raises:
    UserError: the split or year is unknown, or there are no pairs.
  """
  check_choice(split, ("train", "test"), "split", "kitti")
  check_choice(year, tuple(_KITTI_YEARS), "year", "kitti")
  root = _root(directory, "kitti")
  folder = root / {"train": "training", "test": "testing"}[split]
  camera = _KITTI_YEARS[year]
  files = []
  for first in sorted(folder.glob(f"{camera}/*_10.png")):
    second = first.with_name(first.name.replace("_10.png", "_11.png"))
    flow, visible_flow = None, None
    if split == "train":
      flow, visible_flow = (folder / kind / first.name for kind in _KITTI_FLOW)
    files.append(Files(first, second, flow, None, visible_flow, first.stem))
  return _folder(root, f"{folder.name}/{camera}/*_10.png", files)


def pairs(directory: str | os.PathLike[str], split: str) -> FlowFolder:
  """Opens pairs of one's own.

  Args:
    directory: holds, at any depth, NAME_img1 and NAME_img2, two images of any
      kind, and NAME_flow.flo, .pfm or .png (KITTI's 16 bits).
    split: "train" or "test"; "test" is every tenth pair.

  Raises:
    UserError: the split is unknown, there are no pairs, or one lacks an image
      or has two files of flow.
  """
  check_choice(split, ("train", "test"), "split", "pairs")
  root = _root(directory, "pairs")
  flows = sorted(p for s in _FLOW_SUFFIXES for p in root.rglob(f"*_flow{s}"))
  by_name: dict[Path, Path] = {}
  for flow in flows:
    other = by_name.setdefault(flow.with_suffix(""), flow)
    if other != flow:
      raise UserError(f"{other} and {flow} belong to one pair; remove one")
  held_out = np.arange(len(flows)) % _PAIRS_STRIDE == 0
  chosen = splits.part(held_out, split, "pair", "give more")
  return _folder(
    root,
    f"NAME_img1.*, NAME_img2.*, NAME_flow{{{','.join(_FLOW_SUFFIXES)}}}",
    [_own_pair(flows[i]) for i in np.flatnonzero(chosen)],
  )


def _own_pair(flow: Path) -> Files:
  """Returns the files of a pair, given that of its flow."""
  stem = flow.stem.removesuffix("_flow")
  frames = []
  for i in (1, 2):
    name = f"{stem}_img{i}"
    images = sorted(
      path
      for path in flow.parent.glob(f"{glob.escape(name)}.*")
      if path.suffix.lower() in codec.SUFFIXES
    )
    if not images:
      raise UserError(f"{flow} has no {name}.png, or other image, beside it")
    frames.append(images[0])
  return Files(*frames, flow, name=stem)


def _root(directory: str | os.PathLike[str], source: str) -> Path:
  leaf = f"the directory of source {source!r}"
  if not directory:
    raise UserError(
      f"{leaf} is not given; set config.data.source_args.{source}.directory"
    )
  root = files.local_folder(directory)
  if not root.is_dir():
    raise UserError(f"{leaf} is {str(root)!r}, which is no folder; change it")
  return root


def _folder(root: Path, expected: str, files: list[Files]) -> FlowFolder:
  """Returns a folder of pairs; checks that their files exist."""
  if not files:
    raise UserError(
      f"empty dataset: no pair in {str(root)!r}; expected {expected}"
    )
  for pair in files:
    for path in filter(None, pair[:5]):
      if not path.is_file():
        raise UserError(f"{path} is missing; expected {expected} in {root}")
  return FlowFolder(files)


def _chairs_marks(root: Path, count: int) -> list[str]:
  path = root / "FlyingChairs_train_val.txt"
  if not path.is_file():
    raise UserError(
      f"{path} is missing; download it from FlyingChairs' page, where it is"
      " separate from the pairs: it lists the held-out pairs"
    )
  marks = re.findall(r"\S+", files.read_text(path))
  if len(marks) != count:
    raise UserError(
      f"{path} has {len(marks)} lines and {root / 'data'} {count} pairs; unpack"
      " all of the data set there"
    )
  return marks


def _of_size(
  values: np.ndarray, size: tuple[int, int], path: Path
) -> np.ndarray:
  if values.shape[:2] != size:
    raise UserError(
      f"{path} is {values.shape[1]} x {values.shape[0]} and its frames"
      f" {size[1]} x {size[0]} pixels; replace it"
    )
  return values


def _occlusion(
  files: Files, flow: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
  if files.occlusion is not None:
    mask = codec.read_image(files.occlusion, channels=1)
    return _of_size(mask, size, files.occlusion)[..., 0] > 0
  if files.visible_flow is not None:
    path = files.visible_flow
    visible_flow = _of_size(flow_files.read_flow(path), size, path)
    return np.isnan(visible_flow).any(-1) & ~np.isnan(flow).any(-1)
  return np.zeros(size, bool)

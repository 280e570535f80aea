import gzip
import os

import numpy as np
import pytest

from perceiver_jax import limits
from perceiver_jax.data.images import idx, sources
from perceiver_jax.errors import UserError

# Five images and their labels.
_ZEROS = np.zeros((5, 3, 4), np.uint8), np.zeros(5, np.uint8)
_NAMES = {"train": "train", "test": "t10k"}


def _bytes(array):
  header = bytes([0, 0, 8, array.ndim])
  return header + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def _write(folder, split, images, labels, suffix=""):
  for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
    data = _bytes(array)
    path = folder / f"{_NAMES[split]}-{kind}-ubyte{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)


@pytest.fixture(params=["", ".gz"])
def folder(tmp_path, request):
  """Writes 20 training images of 3 x 4 pixels and 5 others."""
  rng = np.random.default_rng(0)
  for split, count in (("train", 20), ("test", 5)):
    images = rng.integers(0, 256, (count, 3, 4), np.uint8)
    images[:, 0, 0] = np.arange(count)
    labels = (np.arange(count) % 3).astype(np.uint8)
    _write(tmp_path, split, images, labels, request.param)
  return tmp_path


def test_images_and_labels_are_those_of_the_files(folder):
  source = sources.make_source("idx", directory=str(folder), split="test")
  assert len(source) == 5
  assert source.class_names == ("0", "1", "2")
  example = source[4]
  assert example["image"].shape == (3, 4, 1)
  assert example["image"].dtype == np.uint8
  assert (example["image"][0, 0, 0], example["label"]) == (4, 1)
  assert sources.split_names("idx", directory=folder) == ["train", "test"]


def test_slices_are_disjoint_and_complete(folder):
  parts = [idx.idx(folder, f"train[{s}]") for s in (":10%", "10%:")]
  assert [len(part) for part in parts] == [2, 18]
  firsts = [
    part[i]["image"][0, 0, 0] for part in parts for i in range(len(part))
  ]
  assert sorted(firsts) == list(range(20))


def test_other_names_of_the_files_are_known(folder):
  for path in list(folder.iterdir()):
    name = path.name.replace("t10k", "test").replace("-idx", ".idx")
    path.rename(folder / f"emnist-letters-{name}")
  assert len(idx.idx(folder, "train")) == 20
  assert len(idx.idx(folder, "test")) == 5


def test_classes_can_be_named(folder):
  (folder / "classes.txt").write_text("shirt\nshoe\nbag\n")
  assert idx.idx(folder, "test").class_names == ("shirt", "shoe", "bag")
  (folder / "classes.txt").write_text("shirt\nshoe\n")
  with pytest.raises(UserError, match=r"2 names, and the labels go up to 2"):
    idx.idx(folder, "test")


def test_classes_are_those_of_both_splits(folder):
  _write(folder, "test", np.zeros((2, 3, 4), np.uint8), np.uint8([7, 0]))
  for path in folder.glob("t10k*.gz"):
    path.unlink()
  assert idx.idx(folder, "train").num_classes == 8


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda data: data[:-1], "only 59"),
    (lambda data: data + b"x", "it has more"),
    (lambda data: data[:9], "ends within its header"),
    (lambda data: b"", "starts with nothing"),
    (
      lambda data: b"\0\0\x0d\3" + data[4:],
      r"with 00000d03 .* 00000803",
    ),
    (lambda data: data[:4] + b"\xff" * 12 + data[16:], "more than"),
    (lambda data: data[:4] + bytes(12) + data[16:], "has no values"),
    (lambda data: gzip.compress(data)[:-9], "ended before|truncated"),
    (lambda data: gzip.compress(data)[:30] + b"\0" * 20, "can't be read"),
  ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path, damage, message):
  _write(
    tmp_path, "train", np.zeros((5, 3, 4), np.uint8), np.zeros(5, np.uint8)
  )
  path = tmp_path / "train-images-idx3-ubyte"
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(UserError, match=message) as error:
    idx.idx(tmp_path, "train")
  assert str(path) in str(error.value)
  assert "replace the file" in str(error.value)


def test_a_header_cannot_ask_for_more_than_the_limit(tmp_path):
  _write(
    tmp_path, "train", np.zeros((5, 3, 4), np.uint8), np.zeros(5, np.uint8)
  )
  path = tmp_path / "train-labels-idx1-ubyte"
  huge = np.array([limits.MAX_IDX_BYTES + 1], ">u4").tobytes()
  path.write_bytes(b"\0\0\x08\1" + huge)
  with pytest.raises(UserError, match=f"more than {limits.MAX_IDX_BYTES:,}"):
    idx.idx(tmp_path, "train")


def test_files_that_do_not_belong_together_are_refused(folder):
  (path,) = folder.glob("train-images*")
  with pytest.raises(UserError, match=r"no split 'val' .* train, test"):
    idx.idx(folder, "val")
  _write(folder, "train", np.zeros((3, 3, 4), np.uint8), np.zeros(2, np.uint8),
         ".gz" if path.suffix else "")  # fmt: skip
  with pytest.raises(UserError, match=r"3 images and .* 2 labels"):
    idx.idx(folder, "train")
  path.rename(folder / f"mnist-{path.name}")
  (label,) = folder.glob("train-labels*")
  label.rename(folder / "labels")
  with pytest.raises(UserError, match=r"has mnist-train-images.* no labels"):
    idx.idx(folder, "test")


def test_two_data_sets_in_a_folder_are_refused(folder):
  (path,) = folder.glob("train-labels*")
  (folder / f"other-{path.name}").write_bytes(path.read_bytes())
  with pytest.raises(UserError, match="has two data sets"):
    idx.idx(folder, "train")


def test_missing_folders_and_pipes_are_refused(tmp_path):
  for directory, message in (
    ("", "no directory is given"),
    (tmp_path / "nowhere", "no directory '.*nowhere'"),
    (tmp_path, r"it has no IDX files"),
  ):
    with pytest.raises(UserError, match=message):
      idx.idx(directory, "train")
    with pytest.raises(UserError, match=message):
      idx.idx_splits(directory)
  _write(
    tmp_path, "train", np.zeros((5, 3, 4), np.uint8), np.zeros(5, np.uint8)
  )
  path = tmp_path / "train-images-idx3-ubyte"
  path.unlink()
  os.mkfifo(path)
  with pytest.raises(UserError, match="pipe"):
    idx.idx(tmp_path, "train")

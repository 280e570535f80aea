import os
import pathlib
import pickle
import resource
import subprocess
import sys
from concurrent import futures

import cv2
import numpy as np
import pytest
import tiny_tfds
from absl import logging
from tensorflow_datasets import features as tfds_features
from tensorflow_datasets.proto import tf_example_pb2

from perceiver_jax.data.core import pipeline
from perceiver_jax.data.core.skip_unreadable import SkipUnreadable
from perceiver_jax.data.images import codec, image_folder, sources, tfds
from perceiver_jax.errors import UserError


@pytest.fixture
def warnings(monkeypatch):
  """Returns a list that collects the warnings logged."""
  lines = []
  monkeypatch.setattr(logging, "warning", lambda s, *a: lines.append(s % a))
  return lines


# image_folder


def _write_image(path, level, shape=(4, 6, 3)):
  path.parent.mkdir(parents=True, exist_ok=True)
  assert cv2.imwrite(str(path), np.full(shape, level, np.uint8))


@pytest.fixture
def folder(tmp_path):
  """Writes cats and dogs for training, dogs and emus for testing."""
  _write_image(tmp_path / "train/cat/b.png", 20)
  _write_image(tmp_path / "train/cat/a.jpg", 10, (5, 7, 3))
  _write_image(tmp_path / "train/dog/c.PNG", 30)
  _write_image(tmp_path / "test/dog/d.jpeg", 40)
  _write_image(tmp_path / "test/emu/e.bmp", 50)
  return tmp_path


def _levels(source):
  return [
    (int(source[i]["image"].mean()), int(source[i]["label"]))
    for i in range(len(source))
  ]


def test_image_folder_reads_every_image_in_the_order_of_names(folder):
  source = image_folder.image_folder(folder, "train")
  assert _levels(source) == [(10, 0), (20, 0), (30, 1)]
  assert source[0]["image"].shape == (5, 7, 3)
  assert source[0]["image"].dtype == np.uint8
  assert source[0]["label"].dtype == np.int32
  assert not source.in_memory


def test_image_folder_labels_mean_the_same_in_every_split(folder):
  train = image_folder.image_folder(str(folder), "train")
  test = image_folder.image_folder(str(folder), "test")
  assert train.class_names == test.class_names == ("cat", "dog", "emu")
  assert train.num_classes == 3
  assert _levels(test) == [(40, 1), (50, 2)]


def test_image_folder_ignores_dot_names_and_other_files(folder):
  before = image_folder.image_folder(folder, "train")
  _write_image(folder / "train/cat/.hidden.png", 99)
  _write_image(folder / "train/.cache/x.png", 99)
  _write_image(folder / ".trash/zebra/x.png", 99)
  (folder / "train/cat/notes.txt").write_text("not an image")
  (folder / "train/cat/folder.png").mkdir()
  (folder / "train/nothing").mkdir()
  (folder / "README").write_text("not a split")
  after = image_folder.image_folder(folder, "train")
  assert _levels(after) == _levels(before)
  assert after.class_names == before.class_names


@pytest.mark.parametrize("suffix", codec.SUFFIXES)
def test_image_folder_reads_all_suffixes(tmp_path, suffix):
  shape = (4, 6, 1) if suffix == ".pgm" else (4, 6, 3)
  _write_image(tmp_path / f"train/cat/a{suffix}", 40, shape)
  ((level, _),) = _levels(image_folder.image_folder(tmp_path, "train"))
  assert abs(level - 40) < 3  # GIF has a palette.


def test_image_folder_warns_of_folders_of_other_files(folder, warnings):
  (folder / "train/fish").mkdir()
  for name in ("a.heic", "b.heic", ".c"):
    (folder / "train/fish" / name).touch()
  (folder / "train/cat/notes.txt").touch()
  (folder / "train/none").mkdir()
  image_folder.image_folder(folder, "test")
  assert not warnings
  image_folder.image_folder(folder, "train")
  (warning,) = warnings
  assert "2 files in folders without an image are left out" in warning
  assert "'fish'" in warning


def test_image_folder_expands_the_home_directory(folder, monkeypatch):
  monkeypatch.setenv("HOME", str(folder.parent))
  assert len(image_folder.image_folder(f"~/{folder.name}", "train")) == 3


def test_image_folder_says_what_is_missing(folder):
  with pytest.raises(
    UserError, match=r"no directory '.*nowhere'; expected DIR"
  ):
    image_folder.image_folder(folder / "nowhere", "train")
  with pytest.raises(UserError, match=r"'val' in .*\(found: test, train\)"):
    image_folder.image_folder(folder, "val")
  (folder / "val/cat").mkdir(parents=True)
  with pytest.raises(UserError, match=r"empty dataset: no image in '.*val'"):
    image_folder.image_folder(folder, "val")


def test_image_folder_warns_of_images_outside_of_class_folders(
  folder, warnings
):
  for name in ("cat/old/c", "cat/old/older/d", "cat/.old/e", "f"):
    _write_image(folder / f"train/{name}.png", 60)
  assert len(image_folder.image_folder(folder, "train")) == 3
  (warning,) = warnings
  assert "3 images that are not in the folder of a class" in warning
  assert "'f.png'" in warning


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (["cat/a", "dog/b", "test/c"], r"'test' is read as a split.* rename it"),
    (["train/a", "train/b"], r"'train' is read as a split and has none"),
    (["a", "b"], r"\(its images are outside of folders\)"),
    (["photos/all/cat/a"], r"\(found: photos\)"),
    ([], r"\(found: no folder\)"),
    (["cat/a", "cat/old/b", "dog/c"], r"such as 'cat', and .* such as 'old'"),
  ],
)
def test_image_folder_says_which_layout_it_found(tmp_path, names, message):
  for name in names:
    _write_image(tmp_path / f"{name}.png", 10)
  with pytest.raises(UserError, match=f"{message}.*expected DIRECTORY/CLASS"):
    image_folder.folder_splits(tmp_path)


@pytest.mark.parametrize("directory", ["", None])
def test_image_folder_refuses_no_directory(directory):
  with pytest.raises(UserError, match="no directory is given"):
    image_folder.image_folder(directory, "train")


# tfds


@pytest.fixture
def prepared(tmp_path):
  """Returns a directory with `tiny`, cats and dogs, as prepared by TFDS."""
  images = [np.full((4 + i, 5, 3), [i, 20, 30], np.uint8) for i in range(5)]
  records = [
    tiny_tfds.record(codec.encode_png(image), i % 2)
    for i, image in enumerate(images)
  ]
  spec = tiny_tfds.classification()
  tiny_tfds.prepare(tmp_path / "tfds", "tiny", spec, {"train": records})
  return str(tmp_path / "tfds")


def test_tfds_reads_a_prepared_data_set(prepared):
  source = tfds.tfds_images("tiny", "train", prepared)
  assert len(source) == 5
  assert source.class_names == ("cat", "dog")
  assert source.num_classes == 2
  for i in range(5):
    expected = np.full((4 + i, 5, 3), [i, 20, 30], np.uint8)
    np.testing.assert_array_equal(source[i]["image"], expected)
    assert source[i]["label"] == i % 2
    assert source[i]["label"].dtype == np.int32
    assert source[i]["unreadable"] == 0


def test_tfds_splits_are_those_prepared(prepared):
  names = sources.split_names("tfds", name="tiny", data_dir=prepared)
  assert names == ["train"]
  parts = [
    tfds.tfds_images("tiny", f"train[{part}]", prepared)
    for part in ("20%:", ":20%")
  ]
  assert [len(part) for part in parts] == [4, 1]


def test_tfds_source_can_be_sent_to_a_worker(prepared):
  source = tfds.tfds_images("tiny", "train", prepared)
  source[0]
  copy = pickle.loads(pickle.dumps(source))
  assert copy[3]["image"][0, 0, 0] == 3


@pytest.fixture
def several_labels(tmp_path):
  """A directory with `many`, images with none to two of three labels."""
  spec = {
    "image": tfds_features.Image(shape=(None, None, 3)),
    "objects": tfds_features.Sequence(
      tfds_features.ClassLabel(names=["cat", "dog", "emu"])
    ),
  }
  records = []
  for labels in ([2, 0], [], [1], [1, 1]):
    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(_jpeg(1))
    feature["objects"].int64_list.value.extend(labels)
    records.append(example.SerializeToString())
  tiny_tfds.prepare(tmp_path, "many", spec, {"train": records})
  return str(tmp_path)


def test_tfds_takes_a_sequence_of_labels(several_labels):
  source = tfds.tfds_images("many", "train", several_labels, "objects")
  assert source.class_names == ("cat", "dog", "emu")
  labels = np.stack([source[i]["label"] for i in range(4)])
  assert labels.dtype == np.float32
  expected = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 1, 0]]
  np.testing.assert_array_equal(labels, expected)


def test_tfds_names_the_leaf_of_the_label(several_labels):
  message = (
    "'many' has features image, objects; image and label,.*label_feature"
  )
  with pytest.raises(UserError, match=message):
    tfds.tfds_images("many", "train", several_labels)


_WORD_NET = ("n01440764", "n01443537", "n01484850")


@pytest.fixture
def imagenet(tmp_path):
  """Writes a small `imagenet2012`: JPEGs of several sizes in several files."""
  spec = tiny_tfds.classification(with_names=True, classes=_WORD_NET)
  splits = {}
  for split, count in (("train", 25), ("validation", 6)):
    splits[split] = [
      tiny_tfds.record(_jpeg(i), i % 3, f"{_WORD_NET[i % 3]}_{i}.JPEG")
      for i in range(count)
    ]
  truncated = tiny_tfds.record(_jpeg(4)[:300], 1, "truncated.JPEG")
  splits["validation"][4] = truncated
  tiny_tfds.prepare(
    tmp_path, "imagenet2012", spec, splits, 10, tiny_tfds.IMAGENET_VERSION
  )
  return str(tmp_path)


def _jpeg(i):
  image = np.full((20 + i, 30, 3), [8 * i, 0, 0], np.uint8)
  return cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()


def _numbers(source):
  return [round(source[i]["image"][0, 0, 0] / 8) for i in range(len(source))]


@pytest.mark.parametrize(
  ("split", "expected"),
  [
    ("train", range(25)),
    ("train[10:]", range(10, 25)),
    ("train[:10]", range(10)),
    ("train[7:13]", range(7, 13)),
    ("train[80%:]", range(20, 25)),
    ("train[:2]+train[23:]", [0, 1, 23, 24]),
    ("validation", [0, 1, 2, 3, 5, 5]),
    ("all", [*range(25), 0, 1, 2, 3, 5, 5]),
  ],
)
def test_tfds_takes_splits_and_slices(imagenet, split, expected):
  source = tfds.tfds_images("imagenet2012", split, imagenet)
  assert _numbers(source) == list(expected)
  # TFDS knows the classes of ImageNet.
  assert source.num_classes == 1000
  assert source.class_names[:3] == _WORD_NET
  labels = [int(source[i]["label"]) for i in range(len(source))]
  assert labels == [i % 3 for i in expected]


def test_tfds_names_an_image_that_cannot_be_read(imagenet, warnings):
  source = tfds.tfds_images("imagenet2012", "validation", imagenet)
  assert [int(source[i]["unreadable"]) for i in range(6)] == [0, 0, 0, 0, 1, 0]
  (line,) = warnings
  assert "'truncated.JPEG' (example 4 of imagenet2012)" in line


def test_images_are_not_decoded_by_tfds(imagenet, monkeypatch):
  def decode(*_):
    raise AssertionError("decoded by TFDS")

  monkeypatch.setattr(tfds_features.Image, "decode_example_np", decode)
  source = tfds.tfds_images("imagenet2012", "train", imagenet)
  assert source[2]["image"].shape == (22, 30, 3)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_tfds_names_a_file_that_cannot_be_read(imagenet, damage, warnings):
  (path,) = pathlib.Path(imagenet).rglob("*train*-00001-of-00003")
  data = path.read_bytes()
  path.unlink()
  if damage == "truncated":
    path.write_bytes(data[:-100])
  source = tfds.tfds_images("imagenet2012", "train", imagenet)
  assert source[9]["unreadable"] == 0
  example = source[12]
  assert (example["unreadable"], example["image"].shape[0]) == (1, 40)
  assert "example 12 of imagenet2012 cannot be read" in warnings[0]
  assert "scripts.data.prepare --check --dataset=imagenet2012" in warnings[0]


def test_tfds_raises_the_limit_of_open_files(tmp_path):
  records = [tiny_tfds.record(_jpeg(i), 0) for i in range(70)]
  spec = tiny_tfds.classification()
  tiny_tfds.prepare(tmp_path, "tiny", spec, {"train": records}, shard_size=1)
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  try:
    open_files = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files + 60, hard))
    source = tfds.tfds_images("tiny", "train", str(tmp_path))
    unreadable = [source[i]["unreadable"] for i in range(70)]
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
  assert sum(unreadable) == 0


@pytest.mark.slow
def test_tfds_reads_in_worker_processes(imagenet):
  batches = list(
    pipeline.eval_dataset(
      tfds.tfds_images("imagenet2012", "validation", imagenet),
      global_batch=3,
      transform=_first_pixel,
      num_workers=1,
    )
  )
  reds = np.concatenate([batch["image"] for batch in batches])
  assert [round(red / 8) for red in reds] == [0, 1, 2, 3, 5, 5]
  mask = np.concatenate([batch["mask"] for batch in batches])
  assert mask.tolist() == [1, 1, 1, 1, 0, 1]


def _first_pixel(example):
  return {**example, "image": example["image"][0, 0, 0]}


@pytest.mark.parametrize(
  ("name", "split", "message"),
  [
    ("no_such_data", "train", "has no 'no_such_data' in .*check the name"),
    (
      "mnist",
      "train",
      "'mnist' split 'train' is not prepared.*scripts.data.prepare",
    ),
    ("tiny", "validation", "'tiny' split 'validation'.*Unknown split.*train"),
    ("tiny", "train[9:]", r"'train\[9:\]' cannot be opened.*5 examples"),
  ],
)
def test_tfds_explains_what_is_missing_in_one_line(
  prepared, name, split, message
):
  with pytest.raises(UserError, match=message) as error:
    tfds.tfds_images(name, split, prepared)
  assert "\n" not in str(error.value)


def test_tfds_refuses_a_data_set_without_images(tmp_path):
  from tensorflow_datasets import features as tfds_features

  spec = {"text": tfds_features.Text()}
  tiny_tfds.prepare(tmp_path, "prose", spec, {"train": [b"", b""]})
  with pytest.raises(UserError, match="'prose' has features text; image and"):
    tfds.tfds_images("prose", "train", str(tmp_path))


def test_tfds_does_not_import_tensorflow(prepared):
  program = (
    "import sys\n"
    "from perceiver_jax.data.images import tfds\n"
    f"source = tfds.tfds_images('tiny', 'train', {prepared!r})\n"
    "print(source[4]['image'].shape, 'tensorflow' in sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=False
  )
  assert done.stdout.strip() == "(8, 5, 3) False", done.stderr


# SkipUnreadable


class _Numbered:
  """A source whose example i has label i, or is damaged."""

  class_names = ("one class",)
  num_classes = 1
  in_memory = False

  def __init__(self, length, damaged=()):
    self.length = length
    self.damaged = frozenset(damaged)

  def __len__(self):
    return self.length

  def __getitem__(self, index):
    index = range(self.length)[index]
    if index in self.damaged:
      raise UserError(f"'{index}.jpg' is damaged")
    return {"label": np.int32(index)}


def _all(source):
  """Returns label and `unreadable` of every example."""
  return [(int(x["label"]), float(x["unreadable"])) for x in source]


def test_an_unreadable_example_is_replaced_by_the_next_readable_one():
  source = SkipUnreadable(_Numbered(6, {1, 2, 5}))
  assert _all(source) == [(0, 0), (3, 1), (3, 1), (3, 0), (4, 0), (0, 1)]
  assert source[1]["unreadable"].dtype == np.float32
  assert (len(source), source.num_classes) == (6, 1)
  assert source.class_names == ("one class",)
  assert not source.in_memory


def test_other_errors_are_not_skipped():
  source = SkipUnreadable(_Numbered(3))
  with pytest.raises(IndexError):
    source[3]


def test_only_the_first_three_unreadable_examples_are_logged_once(warnings):
  source = SkipUnreadable(_Numbered(200, range(0, 100, 20)))
  for _ in range(3):
    _all(source)
  assert [line.split("'")[1] for line in warnings] == [
    "0.jpg",
    "20.jpg",
    "40.jpg",
  ]
  assert warnings[0].endswith("the next image takes its place")


@pytest.mark.parametrize(
  ("length", "damaged", "accepted"),
  [(40, 10, True), (40, 11, False), (2000, 20, True), (2000, 21, False)],
)
def test_ten_images_or_one_percent_may_be_unreadable(length, damaged, accepted):
  # Spread over the end of the source, so that no share is exceeded before.
  last = range(length - 2 * damaged, length, 2)
  source = SkipUnreadable(_Numbered(length, last))
  if accepted:
    for _ in range(3):
      assert sum(unreadable for _, unreadable in _all(source)) == damaged
  else:
    with pytest.raises(UserError, match=f"{damaged} images cannot be read"):
      _all(source)


def test_the_share_of_unreadable_examples_can_be_set():
  damaged = range(0, 100, 2)
  assert len(_all(SkipUnreadable(_Numbered(100, damaged), 0.6))) == 100
  with pytest.raises(UserError):
    _all(SkipUnreadable(_Numbered(100, damaged), 0.4))


@pytest.mark.parametrize("length", [1, 5, 1000])
def test_an_error_is_raised_if_nothing_is_readable(length):
  source = SkipUnreadable(_Numbered(length, range(length)))
  with pytest.raises(
    UserError, match=r"too many.*'0\.jpg' is damaged"
  ) as error:
    source[0]
  assert "\n" not in str(error.value)
  assert "'3.jpg'" not in str(error.value)  # Only the first three are named.


def test_unreadable_examples_are_counted_exactly_over_threads():
  source = SkipUnreadable(_Numbered(3000, range(0, 3000, 100)), 0.02)
  with futures.ThreadPoolExecutor(16) as pool:
    examples = list(pool.map(source.__getitem__, range(3000)))
  assert sum(x["unreadable"] for x in examples) == 30
  # This share allows 29, in whatever order the threads read them.
  strict = SkipUnreadable(_Numbered(3000, range(0, 3000, 100)), 0.0099)
  with futures.ThreadPoolExecutor(16) as pool, pytest.raises(UserError):
    list(pool.map(strict.__getitem__, range(3000)))


def test_a_copy_starts_counting_at_zero(warnings):
  source = SkipUnreadable(_Numbered(12, range(11)), 0.5)
  with pytest.raises(UserError):
    source[0]
  copy = pickle.loads(pickle.dumps(source))
  del warnings[:]
  assert _all([copy[11]]) == [(11, 0)]
  with pytest.raises(UserError):
    copy[0]
  assert len(warnings) == 3


@pytest.fixture
def damaged(tmp_path):
  """Writes twelve images for training, three of which cannot be read."""
  for i in range(12):
    _write_image(tmp_path / f"train/cat/{i:02}.jpg", 10 * i, (16, 16, 3))
  path = tmp_path / "train/cat/03.jpg"
  path.write_bytes(path.read_bytes()[:200])
  (tmp_path / "train/cat/04.jpg").write_text("not an image")
  (tmp_path / "train/cat/11.jpg").write_bytes(b"")
  return tmp_path


def test_an_image_folder_replaces_damaged_files(damaged, warnings):
  source = image_folder.image_folder(damaged, "train")
  examples = [source[i] for i in range(12)]
  levels = [round(x["image"].mean() / 10) for x in examples]
  assert levels == [0, 1, 2, 5, 5, 5, 6, 7, 8, 9, 10, 0]
  unreadable = [int(x["unreadable"]) for x in examples]
  assert unreadable == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1]
  assert len(warnings) == 3
  for line, name in zip(warnings, ("03.jpg", "04.jpg", "11.jpg"), strict=True):
    assert name in line


def test_an_image_folder_of_damaged_files_is_refused(tmp_path):
  (tmp_path / "train/cat").mkdir(parents=True)
  for i in range(30):
    (tmp_path / f"train/cat/{i:02}.jpg").write_text("not an image")
  source = image_folder.image_folder(tmp_path, "train")
  with pytest.raises(UserError, match=r"11 images.*00\.jpg.*01\.jpg.*02\.jpg"):
    source[0]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_pipeline_counts_damaged_files_exactly(damaged, num_workers):
  batches = list(
    pipeline.eval_dataset(
      image_folder.image_folder(damaged, "train"),
      global_batch=5,
      num_workers=num_workers,
    )
  )
  mask = np.concatenate([batch["mask"] for batch in batches])
  # Three of twelve, and three copies that fill the last batch.
  assert mask.tolist() == [1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]
  unreadable = np.concatenate([batch["unreadable"] for batch in batches])
  assert unreadable[:12].sum() == 3


@pytest.mark.slow
def test_too_many_damaged_files_in_a_worker_raise_a_user_error(tmp_path):
  (tmp_path / "train/cat").mkdir(parents=True)
  for i in range(30):
    (tmp_path / f"train/cat/{i:02}.jpg").write_text("not an image")
  batches = pipeline.train_dataset(
    image_folder.image_folder(tmp_path, "train"),
    global_batch=2,
    seed=0,
    num_workers=1,
  )
  with pytest.raises(UserError, match="11 images cannot be read"):
    next(iter(batches))

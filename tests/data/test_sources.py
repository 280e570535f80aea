import json
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest

from perceiver_jax.data import images, sources
from perceiver_jax.errors import UserError

# digits


def test_digits_splits_have_the_published_sizes_and_share_no_image():
  train, test = sources.digits("train"), sources.digits("test")
  assert (len(train), len(test)) == (1437, 360)

  def pictures(source):
    return {source[i]["image"].tobytes() for i in range(len(source))}

  # scikit-learn's digits hold no picture twice, so sets of pictures suffice.
  assert len(pictures(train) | pictures(test)) == 1797


def test_digits_test_split_holds_a_fifth_of_every_class():
  counts = []
  for split in ("train", "test"):
    source = sources.digits(split)
    labels = [int(source[i]["label"]) for i in range(len(source))]
    counts.append(np.bincount(labels, minlength=10))
  share = counts[1] / (counts[0] + counts[1])
  np.testing.assert_allclose(share, 0.2, atol=0.01)


def test_digits_examples_are_light_ink_in_minus_one_to_one():
  source = sources.digits("train")
  pixels = np.stack([source[i]["image"] for i in range(len(source))])
  assert pixels.shape[1:] == (8, 8, 1)
  assert pixels.dtype == np.float32
  assert (pixels.min(), pixels.max()) == (-1, 1)
  assert pixels[:, :, 0].mean() < -0.9  # the left edge is ground, so dark
  assert source[0]["label"].dtype == np.int32
  assert source.class_names == tuple("0123456789")
  assert source.num_classes == 10


def test_digits_labels_fit_the_pictures():
  # Nearest neighbour in the training split is about 98 % right on this set.
  train, test = sources.digits("train"), sources.digits("test")
  a, b = (
    np.stack([s[i]["image"].ravel() for i in range(len(s))])
    for s in (train, test)
  )
  nearest = np.argmin(((b[:, None] - a[None]) ** 2).sum(-1), axis=1)
  right = [test[i]["label"] == train[j]["label"] for i, j in enumerate(nearest)]
  assert np.mean(right) > 0.95


def test_digits_names_the_splits_there_are():
  with pytest.raises(UserError, match=r"'val' for digits.*train, test"):
    sources.digits("val")


# in_memory


def test_in_memory_gives_copies():
  source = sources.in_memory({"image": np.zeros((3, 2, 2, 1))}, ["a"])
  source[1]["image"][:] = 7
  assert not source[1]["image"].any()
  assert len(source) == 3
  assert source.in_memory


@pytest.mark.parametrize("arrays", [{}, {"image": np.zeros((0, 2))}])
def test_in_memory_refuses_no_example(arrays):
  with pytest.raises(UserError, match="empty dataset"):
    sources.in_memory(arrays, ["a"])


def test_in_memory_refuses_arrays_of_different_lengths():
  with pytest.raises(ValueError, match="differ in length"):
    sources.in_memory({"image": np.zeros(3), "label": np.zeros(2)}, ["a"])


# image_folder


def _picture(path, level, shape=(4, 6, 3)):
  path.parent.mkdir(parents=True, exist_ok=True)
  assert cv2.imwrite(str(path), np.full(shape, level, np.uint8))


@pytest.fixture
def folder(tmp_path):
  """Cats and dogs to train on, but only dogs and emus to test on."""
  _picture(tmp_path / "train/cat/b.png", 20)
  _picture(tmp_path / "train/cat/a.jpg", 10, (5, 7, 3))
  _picture(tmp_path / "train/dog/c.PNG", 30)
  _picture(tmp_path / "test/dog/d.jpeg", 40)
  _picture(tmp_path / "test/emu/e.bmp", 50)
  return tmp_path


def _levels(source):
  return [
    (int(source[i]["image"].mean()), int(source[i]["label"]))
    for i in range(len(source))
  ]


def test_image_folder_reads_every_image_in_the_order_of_names(folder):
  source = sources.image_folder(folder, "train")
  assert _levels(source) == [(10, 0), (20, 0), (30, 1)]
  assert source[0]["image"].shape == (5, 7, 3)
  assert source[0]["image"].dtype == np.uint8
  assert source[0]["label"].dtype == np.int32
  assert not source.in_memory


def test_image_folder_labels_mean_the_same_in_every_split(folder):
  train = sources.image_folder(str(folder), "train")
  test = sources.image_folder(str(folder), "test")
  assert train.class_names == test.class_names == ("cat", "dog", "emu")
  assert train.num_classes == 3
  assert _levels(test) == [(40, 1), (50, 2)]


def test_image_folder_ignores_dot_names_and_other_files(folder):
  before = sources.image_folder(folder, "train")
  _picture(folder / "train/cat/.hidden.png", 99)
  _picture(folder / "train/.cache/x.png", 99)
  _picture(folder / ".trash/zebra/x.png", 99)
  (folder / "train/cat/notes.txt").write_text("not an image")
  (folder / "train/cat/folder.png").mkdir()
  (folder / "train/nothing").mkdir()
  (folder / "README").write_text("not a split")
  after = sources.image_folder(folder, "train")
  assert _levels(after) == _levels(before)
  assert after.class_names == before.class_names


def test_image_folder_expands_the_home_directory(folder, monkeypatch):
  monkeypatch.setenv("HOME", str(folder.parent))
  assert len(sources.image_folder(f"~/{folder.name}", "train")) == 3


def test_image_folder_says_what_is_missing(folder):
  with pytest.raises(
    UserError, match=r"no directory '.*nowhere'; expected DIR"
  ):
    sources.image_folder(folder / "nowhere", "train")
  with pytest.raises(UserError, match=r"'val' in .*\(found: test, train\)"):
    sources.image_folder(folder, "val")
  (folder / "val/cat").mkdir(parents=True)
  with pytest.raises(UserError, match=r"empty dataset: no image in '.*val'"):
    sources.image_folder(folder, "val")


@pytest.mark.parametrize("directory", ["", None])
def test_image_folder_wants_a_directory(directory):
  with pytest.raises(UserError, match="no directory is given"):
    sources.image_folder(directory, "train")


def test_image_folder_names_a_damaged_image(folder):
  path = folder / "train/cat/a.jpg"
  path.write_bytes(path.read_bytes()[:60])
  source = sources.image_folder(folder, "train")
  with pytest.raises(UserError, match=r"train/cat/a\.jpg.*damaged"):
    source[0]
  assert source[1]["image"].mean() == 20


# make_source


@pytest.mark.parametrize(
  ("name", "kwargs", "message"),
  [
    ("digitz", {}, "'digitz'.*digits, image_folder, tfds"),
    ("in_memory", {}, "'in_memory'.*digits, image_folder, tfds"),
    ("digits", {}, "missing.*'split'.*it takes: split"),
    ("digits", {"split": "train", "size": 8}, "'size'.*it takes: split"),
    ("image_folder", {"split": "x"}, "it takes: directory, split"),
    ("tfds", {"name": "mnist"}, "it takes: name, split, data_dir"),
  ],
)
def test_make_source_says_what_can_be_given(name, kwargs, message):
  with pytest.raises(UserError, match=message) as error:
    sources.make_source(name, **kwargs)
  assert "\n" not in str(error.value)


def test_make_source_makes_every_source(folder, prepared):
  made = [
    sources.make_source("digits", split="test"),
    sources.make_source("image_folder", directory=folder, split="test"),
    sources.make_source("tfds", name="tiny", split="train", data_dir=prepared),
  ]
  assert [len(source) for source in made] == [360, 2, 5]


# tfds


@pytest.fixture
def prepared(tmp_path):
  """A directory with `tiny`, cats and dogs, as TFDS would prepare it."""
  from tensorflow_datasets import features as tfds_features

  spec = {
    "image": tfds_features.Image(shape=(None, None, 3)),
    "label": tfds_features.ClassLabel(names=["cat", "dog"]),
  }
  _prepare(tmp_path / "tfds", "tiny", spec, [_example(i) for i in range(5)])
  return str(tmp_path / "tfds")


def _example(i):
  from tensorflow_datasets.proto import tf_example_pb2

  example = tf_example_pb2.Example()
  feature = example.features.feature
  pixels = np.full((4 + i, 5, 3), [i, 20, 30], np.uint8)
  feature["image"].bytes_list.value.append(images.encode_png(pixels))
  feature["label"].int64_list.value.append(i % 2)
  return example.SerializeToString()


def _prepare(directory, name, spec, records):
  """Writes what `download_and_prepare`, which needs TensorFlow, leaves."""
  from array_record.python import array_record_module
  from tensorflow_datasets import features as tfds_features

  folder = directory / name / "1.0.0"
  folder.mkdir(parents=True)
  tfds_features.FeaturesDict(spec).save_config(folder)
  shard = folder / f"{name}-train.array_record-00000-of-00001"
  writer = array_record_module.ArrayRecordWriter(str(shard), "group_size:1")
  for record in records:
    writer.write(record)
  writer.close()
  split = {
    "name": "train",
    "shardLengths": [str(len(records))],
    "numBytes": str(shard.stat().st_size),
    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
  }
  info = {
    "name": name,
    "version": "1.0.0",
    "fileFormat": "array_record",
    "splits": [split],
  }
  (folder / "dataset_info.json").write_text(json.dumps(info))


def test_tfds_reads_a_prepared_data_set(prepared):
  source = sources.tfds("tiny", "train", prepared)
  assert len(source) == 5
  assert source.class_names == ("cat", "dog")
  assert source.num_classes == 2
  for i in range(5):
    expected = np.full((4 + i, 5, 3), [i, 20, 30], np.uint8)
    np.testing.assert_array_equal(source[i]["image"], expected)
    assert source[i]["label"] == i % 2
    assert source[i]["label"].dtype == np.int32


def test_tfds_takes_slices(prepared):
  source = sources.tfds("tiny", "train[1:3]", prepared)
  assert [int(source[i]["image"][0, 0, 0]) for i in range(2)] == [1, 2]
  assert len(source) == 2


def test_tfds_source_can_be_sent_to_a_worker(prepared):
  source = pickle.loads(pickle.dumps(sources.tfds("tiny", "train", prepared)))
  assert source[3]["image"][0, 0, 0] == 3


@pytest.mark.parametrize(
  ("name", "split", "message"),
  [
    ("no_such_data", "train", "has no 'no_such_data' in .*check the name"),
    ("mnist", "train", "'mnist' split 'train' is not prepared.*array_record"),
    ("tiny", "validation", "'tiny' split 'validation'.*Unknown split.*train"),
    ("tiny", "train[9:]", r"'train\[9:\]' cannot be opened.*5 examples"),
  ],
)
def test_tfds_says_in_a_line_what_is_missing(prepared, name, split, message):
  with pytest.raises(UserError, match=message) as error:
    sources.tfds(name, split, prepared)
  assert "\n" not in str(error.value)


def test_tfds_refuses_a_data_set_without_images(tmp_path):
  from tensorflow_datasets import features as tfds_features

  spec = {"text": tfds_features.Text()}
  _prepare(tmp_path, "prose", spec, [b"", b""])
  with pytest.raises(UserError, match="'prose' has features text; image and"):
    sources.tfds("prose", "train", str(tmp_path))


def test_tfds_does_not_import_tensorflow(prepared):
  program = (
    "import sys\n"
    "from perceiver_jax.data import sources\n"
    f"source = sources.tfds('tiny', 'train', {prepared!r})\n"
    "print(source[4]['image'].shape, 'tensorflow' in sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=False
  )
  assert done.stdout.strip() == "(8, 5, 3) False", done.stderr

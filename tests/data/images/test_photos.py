import pickle
import subprocess
import sys

import numpy as np
import pytest

from perceiver_jax.data.images import codec, photos, resizing
from perceiver_jax.errors import UserError


def test_splits_have_their_sizes_and_balanced_photos():
  for split, length in (("train", 4096), ("test", 1024)):
    source = photos.photos(split)
    assert len(source) == length
    labels = [int(source[i]["label"]) for i in range(length)]
    counts = np.bincount(labels, minlength=photos.NUM_CLASSES)
    assert counts.max() - counts.min() <= 1
  assert len(photos.photos("train", num_train=7)) == 7
  assert len(photos.photos("test", num_test=8)) == 8


def test_examples_are_square_crops_of_pixels():
  for size in (64, 32):
    example = photos.photos("train", size)[3]
    assert example["image"].shape == (size, size, 3)
    assert example["image"].dtype == np.uint8
    assert example["label"].dtype == np.int32
  source = photos.photos("train")
  assert source.num_classes == len(source.class_names) == photos.NUM_CLASSES
  assert source.class_names[:3] == ("china", "flower", "astronaut")


def test_examples_are_reproducible_and_distinct():
  source = photos.photos("train")
  first = [source[i]["image"] for i in range(64)]
  again = photos.photos("train")
  for i in reversed(range(64)):
    np.testing.assert_array_equal(again[i]["image"], first[i])
  assert len({image.tobytes() for image in first}) == 64
  test = photos.photos("test")
  assert not np.array_equal(test[0]["image"], first[0])


def test_an_index_past_the_end_is_refused():
  source = photos.photos("test", num_test=2)
  assert len(list(source)) == 2
  np.testing.assert_array_equal(source[-1]["image"], source[1]["image"])
  with pytest.raises(IndexError):
    source[2]


def _ramp(monkeypatch):
  """Replaces every photo by one whose values are its columns."""
  columns = np.arange(200, dtype=np.uint8)
  photo = np.broadcast_to(columns[None, :, None], (90, 200, 3))
  monkeypatch.setattr(codec, "read_image", lambda path: photo)


def test_test_crops_come_from_the_right_third_and_train_crops_do_not(
  monkeypatch,
):
  _ramp(monkeypatch)
  reds = {}
  for split in ("train", "test"):
    source = photos.photos(split, 16, 1.0)
    reds[split] = np.stack([source[i]["image"] for i in range(1000)])
  assert (reds["train"].min(), reds["train"].max()) == (0, 133)
  assert (reds["test"].min(), reds["test"].max()) == (134, 199)


def test_scale_is_how_much_a_crop_may_be_enlarged_or_reduced(monkeypatch):
  _ramp(monkeypatch)
  source = photos.photos("train", 16, 2.0)
  rows = [source[i]["image"][0, :, 0].astype(int) for i in range(300)]
  widths = np.array([row[-1] - row[0] + 1 for row in rows])
  assert 7 <= widths.min() <= 9
  assert 30 <= widths.max() <= 33
  # Crops are enlarged as often as reduced.
  assert abs(np.mean(widths < 16) - 0.5) < 0.1
  # A crop that does not fit is as large as the photo.
  assert photos.photos("test", 128)[0]["image"].shape == (128, 128, 3)


def test_photos_of_the_test_split_can_be_classified_by_the_training_split():
  def features(split):
    source = photos.photos(split, num_train=600, num_test=200)
    examples = [source[i] for i in range(len(source))]
    x = [np.ravel(resizing.resize(e["image"], 2, 2)) for e in examples]
    return np.array(x, np.float32), np.array([e["label"] for e in examples])

  (x, labels), (test_x, test_labels) = features("train"), features("test")
  distances = np.square(test_x[:, None] - x[None]).sum(-1)
  accuracy = np.mean(labels[distances.argmin(1)] == test_labels)
  assert accuracy > 3 / photos.NUM_CLASSES


def test_photos_can_be_pickled():
  source = photos.photos("test")
  copy = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(copy[5]["image"], source[5]["image"])


def test_photos_explain_wrong_arguments_and_missing_packages(monkeypatch):
  with pytest.raises(UserError, match=r"'val' for photos.*train, test"):
    photos.photos("val")
  for arguments in ({"size": 0}, {"scale": 0.5}):
    with pytest.raises(UserError, match="give 1 or more of each"):
      photos.photos("train", **arguments)
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install scikit-learn scikit-image"):
    photos.photos("train")


def test_photos_import_neither_scikit_learn_nor_scikit_image():
  program = (
    "import sys\n"
    "from perceiver_jax.data.images import photos\n"
    "photos.photos('train')\n"
    "print({'skimage', 'sklearn'} & set(sys.modules))"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=False
  )
  assert done.stdout.strip() == "set()", done.stderr

import numpy as np
import pytest
import tiny_tfds

from perceiver_jax.data.core.in_memory import InMemoryArrays
from perceiver_jax.data.images import codec, digits, sources
from perceiver_jax.errors import UserError

# digits


def test_digits_splits_have_the_published_sizes_and_share_no_image():
  train, test = digits.digits("train"), digits.digits("test")
  assert (len(train), len(test)) == (1437, 360)

  def images(source):
    return {source[i]["image"].tobytes() for i in range(len(source))}

  # scikit-learn's digits contain no image twice, so sets of images suffice.
  assert len(images(train) | images(test)) == 1797


def test_digits_test_split_holds_a_fifth_of_every_class():
  counts = []
  for split in ("train", "test"):
    source = digits.digits(split)
    labels = [int(source[i]["label"]) for i in range(len(source))]
    counts.append(np.bincount(labels, minlength=10))
  share = counts[1] / (counts[0] + counts[1])
  np.testing.assert_allclose(share, 0.2, atol=0.01)


def test_digits_examples_are_light_ink_in_minus_one_to_one():
  source = digits.digits("train")
  pixels = np.stack([source[i]["image"] for i in range(len(source))])
  assert pixels.shape[1:] == (8, 8, 1)
  assert pixels.dtype == np.float32
  assert (pixels.min(), pixels.max()) == (-1, 1)
  assert pixels[:, :, 0].mean() < -0.9  # The left edge is dark background.
  assert source[0]["label"].dtype == np.int32
  assert source.class_names == tuple("0123456789")
  assert source.num_classes == 10


def test_digits_are_classified_by_their_nearest_neighbors():
  # The accuracy of nearest neighbors is about 98% on this data set.
  train, test = digits.digits("train"), digits.digits("test")
  a, b = (
    np.stack([s[i]["image"].ravel() for i in range(len(s))])
    for s in (train, test)
  )
  nearest = np.argmin(((b[:, None] - a[None]) ** 2).sum(-1), axis=1)
  correct = [
    test[i]["label"] == train[j]["label"] for i, j in enumerate(nearest)
  ]
  assert np.mean(correct) > 0.95


def test_digits_refuses_an_unknown_split_and_names_the_splits():
  with pytest.raises(UserError, match=r"'val' for digits.*train, test"):
    digits.digits("val")


def test_digit_pairs_are_two_digits_of_the_split_with_both_labels():
  single = digits.digits("test")
  known = {
    single[i]["image"].tobytes(): int(single[i]["label"])
    for i in range(len(single))
  }
  pairs = digits.digit_pairs("test", num_test=40)
  assert len(pairs) == 40
  assert pairs.class_names == single.class_names
  counts = []
  for i in range(len(pairs)):
    image, label = pairs[i]["image"], pairs[i]["label"]
    assert (image.shape, image.dtype) == ((8, 16, 1), np.uint8)
    halves = np.split(image, 2, axis=1)
    # 16 levels of ink; the single digits are floats in [-1, 1].
    levels = [
      np.round(half / 255 * 16).astype(np.float32) / 8 - 1 for half in halves
    ]
    expected = {known[level.tobytes()] for level in levels}
    assert set(np.flatnonzero(label)) == expected
    assert label.dtype == np.float32
    counts.append(len(expected))
  assert set(counts) == {1, 2}
  again = digits.digit_pairs("test", num_test=40)
  np.testing.assert_array_equal(pairs[39]["image"], again[39]["image"])


# in_memory


def test_in_memory_returns_copies():
  source = InMemoryArrays({"image": np.zeros((3, 2, 2, 1))}, ["a"])
  source[1]["image"][:] = 7
  assert not source[1]["image"].any()
  assert len(source) == 3
  assert source.in_memory


@pytest.mark.parametrize("arrays", [{}, {"image": np.zeros((0, 2))}])
def test_in_memory_refuses_an_empty_data_set(arrays):
  with pytest.raises(UserError, match="empty dataset"):
    InMemoryArrays(arrays, ["a"])


def test_in_memory_refuses_arrays_of_different_lengths():
  with pytest.raises(ValueError, match="differ in length"):
    InMemoryArrays({"image": np.zeros(3), "label": np.zeros(2)}, ["a"])


# make_source


@pytest.mark.parametrize(
  ("name", "kwargs", "message"),
  [
    (
      "digitz",
      {},
      "'digitz'.*digits, digit_pairs, idx, image_folder, image_list, tfds",
    ),
    ("in_memory", {}, "'in_memory'.*image_folder, image_list, tfds"),
    ("digits", {}, "missing.*'split'.*it takes: split"),
    ("digits", {"split": "train", "size": 8}, "'size'.*it takes: split"),
    ("image_folder", {"split": "x"}, "it takes: directory, split"),
    ("tfds", {"name": "mnist"}, "it takes: name, split, data_dir"),
  ],
)
def test_make_source_names_the_sources_and_their_arguments(
  name, kwargs, message
):
  with pytest.raises(UserError, match=message) as error:
    sources.make_source(name, **kwargs)
  assert "\n" not in str(error.value)


def test_make_source_makes_every_source(tmp_path):
  image = codec.encode_png(np.zeros((4, 6, 3), np.uint8))
  file = tmp_path / "folder/test/cat/a.png"
  file.parent.mkdir(parents=True)
  file.write_bytes(image)
  spec = tiny_tfds.classification()
  records = [tiny_tfds.record(image, 0)] * 5
  tiny_tfds.prepare(tmp_path / "tfds", "tiny", spec, {"train": records})
  (tmp_path / "folder/test.csv").write_text("image,labels\ntest/cat/a.png,\n")
  (tmp_path / "idx").mkdir()
  for kind, header, size in (
    ("images-idx3", (3, 2, 2), 12),
    ("labels-idx1", (3,), 3),
  ):
    content = bytes((0, 0, 8, len(header)))
    content += np.array(header, ">u4").tobytes() + bytes(size)
    (tmp_path / f"idx/t10k-{kind}-ubyte").write_bytes(content)
  arguments = {
    "digits": {"split": "test"},
    "digit_pairs": {"split": "test", "num_test": 7},
    "idx": {"directory": tmp_path / "idx", "split": "test"},
    "image_folder": {"directory": tmp_path / "folder", "split": "test"},
    "image_list": {"directory": tmp_path / "folder", "split": "test"},
    "tfds": {
      "name": "tiny", "split": "train", "data_dir": str(tmp_path / "tfds")
    },
    "photos": {"split": "test"},
  }  # fmt: skip
  assert arguments.keys() == sources.SOURCES.keys()
  made = [sources.make_source(name, **arguments[name]) for name in arguments]
  assert [len(source) for source in made] == [360, 7, 3, 1, 1, 5, 1024]


def test_make_source_refuses_an_empty_data_set():
  with pytest.raises(UserError, match="empty dataset: source 'photos'"):
    sources.make_source("photos", split="test", num_test=0)

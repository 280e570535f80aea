import importlib.machinery
import importlib.util
import pathlib
import shutil
import sys
import types

import cv2
import numpy as np
import pytest
import tensorflow_datasets
import tiny_tfds

# Imported here, since flags defined while a script runs are removed after it.
from array_record.python import array_record_data_source  # noqa: F401

_TRAIN, _VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


def _jpeg(level=0):
  image = np.full((20, 30, 3), level, np.uint8)
  return cv2.imencode(".jpg", image)[1].tobytes()


def _prepare(directory, name="tiny", **lengths):
  """Prepares splits of the given lengths, ten examples per file."""
  splits = {
    split: [tiny_tfds.record(_jpeg(i), i % 2, f"{i}.JPEG") for i in range(n)]
    for split, n in lengths.items()
  }
  spec = tiny_tfds.classification(with_names=True)
  version = "1.0.0" if name == "tiny" else tiny_tfds.IMAGENET_VERSION
  return tiny_tfds.prepare(directory, name, spec, splits, 10, version)


# --check


def test_check_lists_the_splits_of_a_complete_data_set(script, tmp_path):
  _prepare(tmp_path, train=25, test=4)
  done = script(
    "data.prepare", "--dataset=tiny", f"--data_dir={tmp_path}", "--check"
  )
  assert (done.status, done.err) == (0, "")
  assert "tensorflow" not in sys.modules
  assert done.out.splitlines() == [
    "train: 25 examples in 3 files",
    "  example 0: 30 x 20 pixels, cat",
    "  example 12: 30 x 20 pixels, cat",
    "  example 24: 30 x 20 pixels, cat",
    "  complete",
    "test: 4 examples in 1 files",
    "  example 0: 30 x 20 pixels, cat",
    "  example 2: 30 x 20 pixels, cat",
    "  example 3: 30 x 20 pixels, dog",
    "  complete",
  ]


@pytest.mark.parametrize(
  "damage", ["missing", "truncated", "empty", "overwritten"]
)
def test_check_finds_a_damaged_file(refused, tmp_path, damage):
  folder = _prepare(tmp_path, train=25, test=4)
  path = folder / "tiny-train.array_record-00001-of-00003"
  if damage == "missing":
    path.unlink()
  elif damage == "truncated":
    path.write_bytes(path.read_bytes()[:-100])
  elif damage == "empty":
    path.write_bytes(b"")
  else:
    shutil.copy(folder / "tiny-test.array_record-00000-of-00001", path)
  done = refused(
    "data.prepare",
    "--dataset=tiny",
    f"--data_dir={tmp_path}",
    "--check",
    parts=["tiny", str(tmp_path), path.name, "of 10 examples", "again"],
  )
  lines = done.out.splitlines()
  assert lines[0] == "train: 25 examples in 3 files"
  assert lines[1].startswith(f"  {path.name} has")
  assert lines[2] == "test: 4 examples in 1 files"
  assert lines[-1] == "  complete"


def test_check_decodes_some_examples(refused, tmp_path):
  spec = tiny_tfds.classification(with_names=True)
  records = [tiny_tfds.record(_jpeg(), 0, "good.JPEG") for _ in range(4)]
  records.append(tiny_tfds.record(_jpeg()[:200], 0, "truncated.JPEG"))
  tiny_tfds.prepare(tmp_path, "tiny", spec, {"train": records})
  refused(
    "data.prepare",
    "--dataset=tiny",
    f"--data_dir={tmp_path}",
    "--check",
    parts=["not complete", "'truncated.JPEG' (example 4 of tiny)"],
  )


def test_check_reads_texts(script, tmp_path):
  records = []
  for text in (b"first", b"second", b"x" * 99):
    example = tiny_tfds.tf_example_pb2.Example()
    example.features.feature["text"].bytes_list.value.append(text)
    records.append(example.SerializeToString())
  spec = {"text": tiny_tfds.tfds_features.Text()}
  tiny_tfds.prepare(tmp_path, "prose", spec, {"train": records})
  done = script(
    "data.prepare", "--dataset=prose", f"--data_dir={tmp_path}", "--check"
  )
  assert (done.status, done.err) == (0, "")
  assert "example 1: 6 characters, second" in done.out
  assert "example 2: 99 characters, xxx" in done.out
  assert "complete" in done.out


def test_check_reads_texts_of_any_feature(script, tmp_path):
  spec = {
    "book_id": tiny_tfds.tfds_features.Scalar(np.int32),
    "book_text": tiny_tfds.tfds_features.Text(),
  }
  record = tiny_tfds.values(book_id=3, book_text="Once.")
  tiny_tfds.prepare(tmp_path, "books", spec, {"train": [record]})
  done = script(
    "data.prepare", "--dataset=books", f"--data_dir={tmp_path}", "--check"
  )
  assert (done.status, done.err) == (0, "")
  assert "example 0: 5 characters, Once." in done.out


@pytest.mark.parametrize(
  ("labels", "values", "shown"),
  [
    ({}, (), "no label"),
    ({"labels": tiny_tfds.LABELS}, (1, 0), "cat, dog"),
    ({"labels": tiny_tfds.LABELS}, (), "no label"),
    ({"label": tiny_tfds.LABELS.feature}, (-1,), "no label"),
    ({"coarse": tiny_tfds.LABELS.feature}, (1,), "dog"),
  ],
)
def test_check_reads_images_with_any_labels(
  script, tmp_path, labels, values, shown
):
  image = tiny_tfds.tfds_features.Image(shape=(None, None, 3))
  example = tiny_tfds.tf_example_pb2.Example()
  feature = example.features.feature
  feature["image"].bytes_list.value.append(_jpeg())
  for name in labels:
    feature[name].int64_list.value.extend(values)
  splits = {"train": [example.SerializeToString()]}
  tiny_tfds.prepare(tmp_path, "some", {"image": image, **labels}, splits)
  done = script(
    "data.prepare", "--dataset=some", f"--data_dir={tmp_path}", "--check"
  )
  assert (done.status, done.err) == (0, "")
  assert f"example 0: 30 x 20 pixels, {shown}" in done.out


def test_check_reads_glue(script, tmp_path):
  tiny_tfds.glue_mnli(tmp_path)
  done = script(
    "data.prepare", "--dataset=glue/mnli", f"--data_dir={tmp_path}", "--check"
  )
  assert done.status == 0, done.err
  assert "example 1: neutral, é1 | h" in done.out
  assert "example 0: unpublished label, p | h" in done.out


def test_check_knows_the_size_of_imagenet(refused, tmp_path):
  _prepare(tmp_path, "imagenet2012", train=25)
  refused(
    "data.prepare",
    "--dataset=imagenet2012",
    f"--data_dir={tmp_path}",
    "--check",
    parts=[
      "25 of 1,281,167",
      "split validation is missing",
      "https://image-net.org",
      _TRAIN,
      _VALIDATION,
      "--manual_dir",
    ],
  )


@pytest.mark.parametrize("name", ["imagenet2012", "imagenet2012:5.1.0"])
def test_check_explains_where_to_get_imagenet(refused, tmp_path, name):
  refused(
    "data.prepare",
    f"--dataset={name}",
    f"--data_dir={tmp_path}",
    "--check",
    parts=["not prepared", "https://image-net.org", _TRAIN, _VALIDATION],
  )


@pytest.mark.parametrize(
  ("name", "part"), [("mnist", "not prepared"), ("no_such", "has no 'no_such'")]
)
def test_check_refuses_data_sets_that_are_not_prepared_or_unknown(
  refused, tmp_path, name, part
):
  flags = [f"--dataset={name}", f"--data_dir={tmp_path}", "--check"]
  done = refused("data.prepare", *flags, parts=[part, str(tmp_path)])
  assert "image-net" not in done.err


# Preparing


def _find_tensorflow(monkeypatch, spec):
  """Makes TensorFlow seem installed, or missing if `spec` is None."""
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name, *rest: spec if name == "tensorflow" else find(name, *rest),
  )


@pytest.fixture
def tensorflow(monkeypatch):
  """Makes TensorFlow seem installed."""
  spec = importlib.machinery.ModuleSpec("tensorflow", None)
  _find_tensorflow(monkeypatch, spec)


@pytest.fixture
def builder(monkeypatch):
  """Replaces the builder, which needs TensorFlow; records its arguments."""
  recorded = types.SimpleNamespace(error=None)

  def make(name, *, data_dir, file_format):
    recorded.name, recorded.format = name, file_format

    class Builder:
      def is_prepared(self):
        return pathlib.Path(data_dir, name).is_dir()

      def download_and_prepare(self, *, download_config):
        recorded.manual_dir = download_config.manual_dir
        if recorded.error:
          raise recorded.error
        _prepare(pathlib.Path(data_dir), name, train=12)

    return Builder()

  monkeypatch.setattr(tensorflow_datasets, "builder", make)
  return recorded


def _tars(folder, sizes=(147_897_477_120, 6_744_924_160)):
  """Writes sparse files of these sizes."""
  folder.mkdir(parents=True)
  for name, size in zip((_TRAIN, _VALIDATION), sizes, strict=True):
    with open(folder / name, "wb") as file:
      file.truncate(size)


def test_prepare_writes_array_records_and_checks_them(
  script, tensorflow, builder, tmp_path
):
  done = script("data.prepare", "--dataset=tiny", f"--data_dir={tmp_path}")
  assert done.status == 0, done
  assert (builder.name, builder.format) == ("tiny", "array_record")
  assert "train: 12 examples in 2 files" in done.out


def test_a_prepared_data_set_needs_no_tars(script, builder, tmp_path):
  _prepare(tmp_path, train=5)
  done = script("data.prepare", "--dataset=tiny", f"--data_dir={tmp_path}")
  assert done.status == 0, done
  assert done.out.startswith("tiny is already prepared\n")
  assert "train: 5 examples in 1 files" in done.out


def test_prepare_takes_the_tars_of_imagenet(
  refused, tensorflow, builder, tmp_path
):
  _tars(tmp_path / "tars")
  builder.error = AssertionError("recorded\nfor")
  refused(
    "data.prepare",
    "--dataset=imagenet2012",
    f"--data_dir={tmp_path / 'data'}",
    f"--manual_dir={tmp_path / 'tars'}",
    parts=["imagenet2012 cannot be prepared: recorded for"],
  )
  assert str(builder.manual_dir) == str(tmp_path / "tars")


def test_prepare_looks_for_the_tars_where_tfds_does(
  refused, tensorflow, builder, tmp_path
):
  _tars(tmp_path / "downloads/manual")
  builder.error = OSError("no space")
  refused(
    "data.prepare",
    "--dataset=imagenet2012",
    f"--data_dir={tmp_path}",
    parts=["no space"],
  )


def test_missing_and_incomplete_tars_are_refused(refused, tmp_path):
  refused(
    "data.prepare",
    "--dataset=imagenet2012",
    f"--data_dir={tmp_path}",
    f"--manual_dir={tmp_path / 'tars'}",
    parts=[str(tmp_path / "tars" / _TRAIN), "https://image-net.org"],
  )
  _tars(tmp_path / "tars", (147_897_477_120, 1000))
  refused(
    "data.prepare",
    "--dataset=imagenet2012",
    f"--data_dir={tmp_path}",
    f"--manual_dir={tmp_path / 'tars'}",
    parts=[_VALIDATION, "1,000 bytes", "6,744,924,160", "download it again"],
  )


def test_prepare_without_tensorflow_is_refused(refused, tmp_path, monkeypatch):
  _find_tensorflow(monkeypatch, None)
  refused(
    "data.prepare",
    "--dataset=mnist",
    f"--data_dir={tmp_path}",
    parts=["needs TensorFlow", "perceiver_jax[prepare]", "--check"],
  )


def test_prepare_refuses_an_unknown_data_set(refused, tensorflow, tmp_path):
  refused(
    "data.prepare",
    "--dataset=no_such",
    f"--data_dir={tmp_path}",
    parts=["has no 'no_such'"],
  )


# --directory


@pytest.fixture
def folder(tmp_path):
  """Writes images of cats and dogs, more of cats."""
  for split, name, count in (
    ("train", "cat", 5),
    ("train", "dog", 3),
    ("val", "cat", 2),
  ):
    (tmp_path / split / name).mkdir(parents=True)
    for i in range(count):
      (tmp_path / split / name / f"{i}.JPEG").write_bytes(_jpeg(i))
  return tmp_path


def test_a_folder_is_counted_and_read(script, folder):
  done = script("data.prepare", f"--directory={folder}")
  assert done.status == 0, done
  assert done.out.splitlines() == [
    "train: 8 images in 2 classes, 3 to 5 per class",
    "val: 2 images in 2 classes, 0 to 2 per class",
    "0 of 10 images cannot be read",
  ]


def test_unreadable_images_of_a_folder_are_listed(script, folder):
  (folder / "train/dog/1.JPEG").write_bytes(_jpeg()[:200])
  (folder / "train/dog/2.JPEG").write_bytes(b"")
  (folder / "val/cat/0.JPEG").write_text("not an image")
  done = script("data.prepare", f"--directory={folder}")
  assert done.status == 1, done
  lines = done.out.splitlines()
  assert lines[-1] == "3 of 10 images cannot be read"
  for line, name in zip(
    lines[-4:-1], ("dog/1.JPEG", "dog/2.JPEG", "cat/0.JPEG"), strict=True
  ):
    assert str(folder) in line
    assert name in line


def test_a_folder_of_another_layout_is_refused(refused, tmp_path):
  refused(
    "data.prepare",
    f"--directory={tmp_path / 'nowhere'}",
    parts=["no directory", "nowhere", "DIRECTORY/SPLIT/CLASS"],
  )
  refused(
    "data.prepare",
    f"--directory={tmp_path}",
    parts=["no image", str(tmp_path), "SPLIT/CLASS"],
  )
  # The published test split of ImageNet has no folders of classes.
  (tmp_path / "test").mkdir()
  (tmp_path / "test/1.JPEG").write_bytes(_jpeg())
  refused(
    "data.prepare",
    f"--directory={tmp_path}",
    parts=["no image", str(tmp_path), "SPLIT/CLASS"],
  )


def test_other_folders_beside_the_splits_are_no_error(script, folder):
  (folder / "notes").mkdir()
  done = script("data.prepare", f"--directory={folder}")
  assert done.status == 0, done
  assert "notes: empty dataset" in done.out


# Flags


def test_exactly_one_of_dataset_and_directory_is_required(refused):
  parts = ["--dataset=NAME", "--directory=FOLDER"]
  refused("data.prepare", parts=parts)
  refused("data.prepare", "--dataset=a", "--directory=b", parts=parts)
  refused("data.prepare", "check", parts=["'check'"])

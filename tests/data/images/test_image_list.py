import pickle

import cv2
import numpy as np
import pytest

from perceiver_jax.data.images import image_list
from perceiver_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
  """Three images, and lists in both formats."""
  for number, name in enumerate(("a.png", "b.jpg", "c d.png")):
    path = tmp_path / "images" / name
    path.parent.mkdir(exist_ok=True)
    shape = (4 + number, 6, 3)
    assert cv2.imwrite(str(path), np.full(shape, 10 * number, np.uint8))
  (tmp_path / "train.csv").write_text(
    "image,labels,width\n"
    "images/a.png,dog; red,6\n"
    '"images/b.jpg","cat, Siamese",6\n'
    "images/c d.png,,6\n"
  )
  (tmp_path / "test.jsonl").write_text(
    '{"image": "images/b.jpg", "labels": ["dog", 7, "dog"]}\n\n'
    '{"image": "images/a.png", "labels": []}\n'
  )
  return tmp_path


def labels(source):
  return [
    [source.class_names[k] for k in np.flatnonzero(source[i]["label"])]
    for i in range(len(source))
  ]


def test_a_csv_list(folder):
  source = image_list.image_list(folder, "train")
  # Of both lists, so that labels mean the same in all splits.
  assert source.class_names == ("7", "cat, Siamese", "dog", "red")
  assert labels(source) == [["dog", "red"], ["cat, Siamese"], []]
  assert [source[i]["image"].shape[0] for i in range(3)] == [4, 5, 6]
  assert source[0]["label"].dtype == np.float32
  assert source[0]["unreadable"] == 0


def test_a_list_of_a_spreadsheet(folder):
  (folder / "train.csv").write_text(
    '\ufeffimage, labels,\r\nimages/a.png, "dog; red",\r\n'
  )
  source = image_list.image_list(folder, "train")
  assert labels(source) == [["dog", "red"]]


def test_a_jsonl_list(folder):
  source = image_list.image_list(str(folder), "test")
  assert labels(source) == [["7", "dog"], []]
  assert source[0]["image"].shape == (5, 6, 3)


def test_classes_may_be_listed_in_an_order(folder):
  (folder / "classes.txt").write_text(
    "\ufeffred\ndog\n\ncat, Siamese\n7\nemu\n"
  )
  source = image_list.image_list(folder, "train")
  assert source.class_names == ("red", "dog", "cat, Siamese", "7", "emu")
  assert labels(source) == [["red", "dog"], ["cat, Siamese"], []]


def test_a_missing_image_is_replaced_with_its_labels(folder):
  (folder / "images" / "a.png").unlink()
  source = image_list.image_list(folder, "train")
  assert labels(source)[0] == ["cat, Siamese"]
  assert source[0]["unreadable"] == 1


def test_workers_get_the_list(folder):
  source = pickle.loads(pickle.dumps(image_list.image_list(folder, "train")))
  assert labels(source) == [["dog", "red"], ["cat, Siamese"], []]


@pytest.mark.parametrize(
  ("file", "text", "message"),
  [
    ("train.csv", "image,label\na,b\n", r"no column labels.*semicolons"),
    ("train.csv", "image,labels\n", "names no image"),
    ("train.csv", "image,labels\n,dog\n", "line 2 names no image"),
    ("train.csv", "labels,image\ndog\n", "line 2 names no image"),
    ("train.csv", "", "no column image"),
    ("train.csv", "image,labels\na,x,y\n", "line 2: 3 fields for 2 columns"),
    ("train.csv", 'image,labels\na,x\nb,"x\n', "line 3 is not CSV"),
    ("test.jsonl", '{"image": "a", "labels": [["x"]]}', r"label \['x'\] is"),
    ("test.jsonl", '{"image": "a", "labels": [null]}', "label None is not"),
    ("test.jsonl", '{"image": "a", "labels": [" "]}', "label ' ' is not"),
    ("test.jsonl", "{}\n", "line 1.*labels"),
    ("test.jsonl", '{"image": "a"}\n{"image": 1, "labels": "x"}', "line 1"),
    ("test.jsonl", '\n{"image": "a", "labels": "dog"}\n', "line 2.*a list"),
    ("test.jsonl", "image\n", "line 1"),
    ("classes.txt", "red\ndog\n", "line 3: 'cat, Siamese' is not in classes"),
    ("classes.txt", "red\ndog\nred\n", "class twice"),
  ],
)
def test_lists_that_are_no_lists_are_refused(folder, file, text, message):
  (folder / file).write_text(text)
  with pytest.raises(UserError, match=message) as error:
    image_list.image_list(folder, "test" if "test" in file else "train")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("directory", "split", "message"),
  [
    ("", "train", r"image_list\.directory.*SPLIT\.csv"),
    ("no_such", "train", "no directory 'no_such'"),
    (None, "validation", "no list 'validation' in.*it has test, train"),
  ],
)
def test_what_is_missing_is_named(folder, directory, split, message):
  directory = folder if directory is None else directory
  with pytest.raises(UserError, match=message):
    image_list.image_list(directory, split)

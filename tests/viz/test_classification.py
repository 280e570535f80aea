import html
import re

import numpy as np
import pytest

from perceiver_jax.viz import (
  classification,
  plots,
)


def rows(page):
  """Cells of the rows of every table's body, tables one after the other."""
  return [
    [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t", row)]
    for row in re.findall(r"<tr>(<th scope=.row.*?)</tr>", page)
  ]


def names_of(size):
  return [f"class {i}" for i in range(size)]


def test_a_matrix_that_can_be_read_is_drawn_beside_its_mistakes():
  size = plots.MAX_LABELS
  matrix = np.eye(size) * 5
  matrix[3, 4] = 5
  page = classification.confusion(matrix, names_of(size))
  assert "<img" in page
  assert f"{5 * size:,} of {5 * size + 5:,} right." in page
  assert rows(page) == [["class 3", "class 4", "5", "50.0%"]]


def test_of_too_many_classes_the_most_confused_pairs_are_listed():
  size = plots.MAX_LABELS + 1
  matrix = np.eye(size, dtype=np.float32) * 100
  for i in range(25):
    matrix[i, i + 1] = i + 1
  page = classification.confusion(matrix, names_of(size))
  assert "<img" not in page
  assert "51 classes are too many to be drawn." in page
  listed = rows(page)
  assert len(listed) == 20
  assert listed[0] == ["class 24", "class 25", "25", "20.0%"]
  assert listed[-1][:3] == ["class 5", "class 6", "6"]


def test_a_perfect_classifier_has_no_table_of_mistakes():
  for size in (3, 1000):
    page = classification.confusion(np.eye(size), names_of(size))
    assert f"{size:,} of {size:,} right." in page
    assert "<table" not in page


def test_every_class_is_listed_where_they_are_few_the_worst_first():
  matrix = np.array([[8, 0, 2], [0, 0, 0], [1, 5, 4]])
  page = classification.classes({0: 0.8, 2: 0.4}, matrix, ["a", "b", "c"])
  assert page.count("<table") == 1
  assert rows(page) == [["c", "b", "40.0%", "10"], ["a", "c", "80.0%", "10"]]


def test_a_class_without_mistakes_is_taken_for_nothing_else():
  page = classification.classes(
    {0: 1.0}, np.array([[3, 0], [0, 0]]), ["a", "b"]
  )
  assert rows(page) == [["a", "–", "100.0%", "3"]]


def test_long_names_are_cut():
  names = ["a" * 32, "b" * 33]
  matrix = np.array([[1, 1], [0, 1]])
  cut = ["a" * 32, "b" * 31 + "…"]
  accuracy = {0: 0.5, 1: 1.0}
  assert rows(classification.confusion(matrix, names))[0][:2] == cut
  assert rows(classification.classes(accuracy, matrix, names))[0][:2] == cut


@pytest.mark.parametrize("size", [20, 21])
def test_of_many_classes_the_worst_and_the_best_are_listed(size):
  accuracy = {i: (i + 1) / size for i in range(size)}
  page = classification.classes(accuracy, np.eye(size), names_of(size))
  listed = [int(row[0].split()[1]) for row in rows(page)]
  if size == 20:
    assert listed == list(range(20))
  else:
    assert listed == [*range(10), *range(20, 10, -1)]
    assert page.count("<table") == 2


def test_calibration_states_the_error_and_shows_the_diagram():
  table = np.tile([4.0, 2.0, 3.0], (15, 1))
  page = classification.calibration(table, 0.04567)
  assert "4.57%" in page
  assert "over 15 bins" in page
  assert page.count("data:image/svg+xml") == 1


def test_what_is_missing_is_left_out():
  matrix = np.eye(2)
  assert classification.confusion(None, ["a", "b"]) == ""
  assert classification.confusion(matrix, []) == ""
  assert classification.classes({}, matrix, ["a", "b"]) == ""
  assert classification.classes({0: 1.0}, None, ["a", "b"]) == ""
  assert classification.classes({0: 1.0}, matrix, []) == ""
  assert classification.calibration(None, 0.1) == ""
  assert classification.calibration(np.ones((15, 3)), None) == ""

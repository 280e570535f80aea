import base64
import html
import math
import re

import cv2
import numpy as np
import pytest

from perceiver_jax.viz import plots, sections
from perceiver_jax.viz.sections import (
  ClipSample,
  ImageSample,
  Media,
  TextSample,
  TextSpan,
)

HOSTILE = "<script>alert('1')</script>\"&"


def rows(section):
  """Returns the cells of every table row, without the header."""
  return [
    [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t", row)]
    for row in re.findall(r"<tr>(<th scope=.row.*?)</tr>", section.body)
  ]


def embedded(section, media_type):
  """Returns the embedded files of a type."""
  files = re.findall(rf"data:{re.escape(media_type)};base64,([^\"]+)",
                     section.body)  # fmt: skip
  return [base64.b64decode(file) for file in files]


def assert_in_order(text, *parts):
  places = [text.index(part) for part in parts]
  assert places == sorted(places)


def names_of(size):
  return [f"class {i}" for i in range(size)]


def gray(level, shape=(8, 8, 1)):
  return np.full(shape, level, np.uint8)


def image_sample(label, prediction, probability, level=0):
  return ImageSample(
    gray(level), gray(level, (16, 16, 3)), label, prediction, probability
  )


def test_every_section_escapes_text_from_outside():
  matrix = np.array([[1, 2], [0, 3]])
  names = [HOSTILE, "b"]
  for section in (
    sections.notes([HOSTILE]),
    sections.image_samples([image_sample(HOSTILE, "b", 0.5)]),
    sections.image_samples([image_sample("a", HOSTILE, 0.5)]),
    sections.text_samples([TextSample(HOSTILE, HOSTILE, HOSTILE, 0.5)]),
    sections.masked_tokens([[TextSpan(HOSTILE, "", False)]]),
    sections.masked_tokens([[TextSpan(HOSTILE, "a", True)]]),
    sections.masked_tokens([[TextSpan("a", HOSTILE, True)]]),
    sections.clip_samples(
      [ClipSample([Media(HOSTILE, "audio/wav", b"")], {HOSTILE: HOSTILE})]
    ),
    sections.confusion_matrix(matrix, names),
    sections.class_accuracy({0: 0.3, 1: 1.0}, matrix, names),
    sections.class_metrics(
      [HOSTILE], {"class_AP": [0.5], "class_AUC": [0.5], "class_examples": [1]}
    ),
  ):
    assert "<script" not in section.body
    assert "&lt;script" in section.body


def test_images_start_with_the_most_confident_mistakes():
  section = sections.image_samples(
    [
      image_sample("right1", "right1", 0.99, 10),
      image_sample("cat", "wrong1", 0.4, 20),
      image_sample("right2", "right2", 0.3, 30),
      image_sample("cat", "wrong2", 0.8, 40),
    ]
  )
  names = re.findall(r"<strong>(\w+)</strong> (\d+)%", section.body)
  assert names == [
    ("wrong2", "80"),
    ("wrong1", "40"),
    ("right1", "99"),
    ("right2", "30"),
  ]
  kinds = re.findall(r"<figure class=\"(\w+)\"", section.body)
  assert kinds == ["wrong", "wrong", "correct", "correct"]
  assert section.body.count("label: cat<") == 0
  assert section.body.count("\nlabel: cat") == 2
  levels = [
    cv2.imdecode(np.frombuffer(png, np.uint8), -1)[0, 0, 0]
    for png in embedded(section, "image/png")
  ]
  assert levels == [40, 40, 20, 20, 10, 10, 30, 30]


@pytest.mark.parametrize(("size", "pixelated"), [(63, 1), (64, 0)])
def test_only_small_images_are_pixelated(size, pixelated):
  image, attention = gray(1, (size, size, 3)), gray(1, (64, 64, 3))
  sample = ImageSample(image, attention, "a", "a", 0.5)
  body = sections.image_samples([sample]).body
  assert body.count('class="pixelated"') == pixelated


def test_texts_start_with_the_most_confident_mistakes():
  section = sections.text_samples(
    [
      TextSample("right", "good", "good", 0.9),
      TextSample("doubtful", "good", "bad", 0.6),
      TextSample("sure", "bad", "good", 0.99),
    ]
  )
  assert rows(section) == [
    ["sure", "bad", "✗ good", "99%"],
    ["doubtful", "good", "✗ bad", "60%"],
    ["right", "good", "good", "90%"],
  ]


def test_scores_have_no_mark_and_start_with_the_largest_error():
  section = sections.text_samples(
    [
      TextSample("near", "2.500", "2.400", None),
      TextSample("far", "0.000", "4.000", None),
    ]
  )
  assert rows(section) == [
    ["far", "0.000", "4.000"],
    ["near", "2.500", "2.400"],
  ]


def test_scores_follow_classes_and_are_no_mistakes():
  section = sections.text_samples(
    [
      TextSample("score", "2.500", "2.400", None),
      TextSample("class", "good", "good", 0.9),
      TextSample("mistake", "good", "bad", 0.6),
    ]
  )
  assert rows(section) == [
    ["mistake", "good", "✗ bad", "60%"],
    ["class", "good", "good", "90%"],
    ["score", "2.500", "2.400", "–"],
  ]


def test_wrong_predictions_are_followed_by_the_masked_text():
  text = [
    TextSpan("two  spaces ", "xxx", False),
    TextSpan("cat", "cat", True),
    TextSpan(" dog ", "cow", True),
  ]
  body = sections.masked_tokens([text, text[:1]]).body
  assert ">two  spaces <ins>cat</ins><del>cow</del> [dog]</p>" in body
  assert body.count("<p ") == 2


def test_clips_are_embedded_with_players():
  sample = ClipSample(
    [
      Media("both", "video/mp4", b"film"),
      Media("", "audio/wav", b"wave"),
    ],
    {"label": "a", "prediction": "c"},
    [(b"<svg/>", "two waves")],
  )
  section = sections.clip_samples([sample])
  assert section.body.count("</video>") == section.body.count("</audio>") == 1
  assert embedded(section, "video/mp4") == [b"film"]
  assert embedded(section, "audio/wav") == [b"wave"]
  assert "label: a<br>\nprediction: c" in section.body
  assert 'aria-label="audio"' in section.body
  assert embedded(section, "image/svg+xml") == [b"<svg/>"]
  assert 'alt="two waves"' in section.body
  assert "pip install" not in section.description


def test_without_players_the_extra_is_named():
  section = sections.clip_samples([ClipSample([], {"label": "a"})])
  assert "perceiver_jax[media]" in section.description
  assert "label: a" in section.body


def test_flow_is_embedded_as_an_image():
  section = sections.flow_samples(gray(3, (4, 6, 3)))
  assert len(embedded(section, "image/png")) == 1


def test_a_legible_confusion_matrix_is_drawn_beside_the_mistakes():
  size = plots.MAX_LABELS
  matrix = np.eye(size) * 5
  matrix[3, 4] = 5
  section = sections.confusion_matrix(matrix, names_of(size))
  assert len(embedded(section, "image/svg+xml")) == 1
  assert f"{5 * size:,} of {5 * size + 5:,} correct." in section.description
  assert rows(section) == [["class 3", "class 4", "5", "50.0%"]]


def test_with_too_many_classes_only_mistakes_are_listed():
  size = plots.MAX_LABELS + 1
  matrix = np.eye(size, dtype=np.float32) * 100
  for i in range(25):
    matrix[i, i + 1] = i + 1
  section = sections.confusion_matrix(matrix, names_of(size))
  assert "<img" not in section.body
  assert "51 classes are too many to draw." in section.description
  listed = rows(section)
  assert len(listed) == 20
  assert listed[0] == ["class 24", "class 25", "25", "20.0%"]
  assert listed[-1][:3] == ["class 5", "class 6", "6"]


@pytest.mark.parametrize("size", [3, 1000])
def test_a_perfect_classifier_has_no_table_of_mistakes(size):
  section = sections.confusion_matrix(np.eye(size), names_of(size))
  assert f"{size:,} of {size:,} correct." in section.description
  assert "<table" not in section.body


def test_a_few_classes_are_all_listed_worst_first():
  matrix = np.array([[8, 0, 2], [0, 0, 0], [1, 5, 4]])
  section = sections.class_accuracy({0: 0.8, 2: 0.4}, matrix, ["a", "b", "c"])
  assert rows(section) == [
    ["c", "b", "40.0%", "10"],
    ["a", "c", "80.0%", "10"],
  ]


def test_a_class_without_mistakes_is_confused_with_none():
  matrix = np.array([[3, 0], [0, 0]])
  section = sections.class_accuracy({0: 1.0}, matrix, ["a", "b"])
  assert rows(section) == [["a", "–", "100.0%", "3"]]


def test_long_class_names_are_shortened():
  names = ["a" * 32, "b" * 33]
  matrix = np.array([[1, 1], [0, 1]])
  shortened = ["a" * 32, "b" * 31 + "…"]
  confusion = sections.confusion_matrix(matrix, names)
  classes = sections.class_accuracy({0: 0.5, 1: 1.0}, matrix, names)
  assert rows(confusion)[0][:2] == shortened
  assert rows(classes)[0][:2] == shortened


@pytest.mark.parametrize("size", [40, 41])
def test_of_many_classes_the_worst_and_the_best_are_listed(size):
  accuracy = {i: (i + 1) / size for i in range(size)}
  section = sections.class_accuracy(accuracy, np.eye(size), names_of(size))
  listed = [int(row[0].split()[1]) for row in rows(section)]
  if size == 40:
    assert listed == list(range(40))
  else:
    assert listed == [*range(10), *range(40, 30, -1)]
    assert section.body.count("<table") == 2


def test_class_metrics_exclude_classes_without_examples():
  names = ["empty", *(f"class {i}" for i in (3, 0, 1, 2))]
  metrics = {
    "class_AP": [math.nan, 0.75, 0.0, 0.25, 0.5],
    "class_AUC": [math.nan, 0.5, 0.5, 0.5, 0.5],
    "class_examples": [0, 3, 0, 1, 2],
  }
  assert rows(sections.class_metrics(names, metrics)) == [
    [f"class {i}", f"{i / 4:.3f}", "0.500", str(i)] for i in range(4)
  ]


def test_calibration_shows_the_error_and_the_diagram():
  table = np.tile([4.0, 2.0, 3.0], (15, 1))
  section = sections.calibration(table, 0.04567)
  assert "4.57%" in section.description
  assert "over 15 bins" in section.description
  assert len(embedded(section, "image/svg+xml")) == 1

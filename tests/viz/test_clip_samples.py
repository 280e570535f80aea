import base64
import math
import re

from perceiver_jax.viz import clip_samples
from perceiver_jax.viz.clip_samples import (
  Clip,
  Media,
)


def test_a_clip_can_be_played():
  sample = Clip(
    [
      Media("both", "video/mp4", b"film"),
      Media("the original's sound", "audio/wav", b"wave"),
    ],
    {"truth": "a <b>", "answer": "c"},
  )
  page = clip_samples.clips([sample])
  assert page.count("</video>") == page.count("</audio>") == 1
  files = re.findall(r"src=\"data:(\S+);base64,(\S+)\"", page)
  assert [kind for kind, _ in files] == ["video/mp4", "audio/wav"]
  assert [base64.b64decode(file) for _, file in files] == [b"film", b"wave"]
  assert "truth: a &lt;b&gt;<br>answer: c" in page
  assert "the original&#x27;s sound" in page
  assert "pip install" not in page


def test_without_players_the_reader_is_told_what_to_install():
  page = clip_samples.clips([Clip([], {"truth": "a"})])
  assert "perceiver_jax[media]" in page
  assert "truth: a" in page
  assert clip_samples.clips([]) == ""


def _rows(count):
  return [(f"class {i}", i / count, 0.5, i) for i in range(count)]


def test_classes_come_best_first():
  rows = [*_rows(4), ("none of it", math.nan, math.nan, 0)]
  page = clip_samples.class_scores(rows)
  found = re.findall(r"class \d", page)
  assert found == ["class 3", "class 2", "class 1", "class 0"]
  assert "none of it" not in page
  assert clip_samples.class_scores(rows[-1:]) == ""


def test_of_many_classes_only_the_ends_are_shown():
  page = clip_samples.class_scores(_rows(100))
  shown = [int(n) for n in re.findall(r">class (\d+)<", page)]
  assert shown == [*range(99, 84, -1), *range(14, -1, -1)]

import base64
import html.parser
import math
import os
import pathlib
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from perceiver_jax.viz import html as templates
from perceiver_jax.viz import sections
from perceiver_jax.viz.report import Report, write_report

VOID = {"meta", "img", "br"}
EVIL = '<script>alert("1")</script>\'"&'


class Page(html.parser.HTMLParser):
  """A parser that asserts that tags are closed, and collects tags and text."""

  def __init__(self, source):
    super().__init__()
    self.open, self.tags, self.text = [], [], []
    self.feed(source)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    names = [name for name, _ in attrs]
    assert len(set(names)) == len(names)
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if "style" not in self.open:
      self.text.append(data)

  def all(self, tag):
    return [attrs for name, attrs in self.tags if name == tag]

  def images(self, kind):
    start = f"data:image/{kind};base64,"
    return [
      base64.b64decode(attrs["src"][len(start) :])
      for attrs in self.all("img")
      if attrs["src"].startswith(start)
    ]


def image_sample(label, prediction, probability):
  image = np.zeros((8, 8, 3), np.uint8)
  return sections.ImageSample(image, image, label, prediction, probability)


def task_sections(name):
  confusion, names = np.array([[5, 1], [2, 7]]), [name, "dog"]
  samples = [image_sample(name, "dog", 0.9), image_sample("a", "a", 0.5)]
  return [
    sections.notes([f"note {name}"]),
    sections.image_samples(samples),
    sections.confusion_matrix(confusion, names),
    sections.class_accuracy({0: 5 / 6, 1: 7 / 9}, confusion, names),
    sections.calibration(np.array([[5, 3.0, 3], [10, 9.0, 9]]), 0.0123),
    sections.Section(name, name, name),
  ]


def full_report(name="cat", **changes):
  parts = {
    "title": f"run {name}",
    "summary": {"eval_top1": 0.987654, "examples": 10000, "device": name},
    "published": {"eval_top1": 0.99, "examples": 9000, "source": name},
    "records": [
      {"step": step, "train/loss": 3.0 / (step + 1), "lr": 0.1, name: 1.0}
      for step in range(5)
    ],
    "sections": task_sections(name),
    "config": {"model": {name: name, "depth": 2}, "empty": {}},
    "versions": {"jax": "0.10", name: name},
    "parameters": [(name, (3, 4), 12), ("scale", (), 1)],
  }
  return Report(**{**parts, **changes})


def render(tmp_path, report):
  path = tmp_path / "report.html"
  write_report(path, report)
  source = path.read_text(encoding="utf-8")
  return source, Page(source)


def test_the_page_is_well_formed_and_has_every_part(tmp_path):
  source, page = render(tmp_path, full_report())
  assert source.startswith("<!DOCTYPE html>")
  text = " ".join(" ".join(page.text).split())
  for part in (
    "run cat 0.9877 eval top1 examples 10,000",
    "eval top1 0.9877 0.99 −0.00235",
    "examples 10,000 9,000 +1,000",
    "Curves",
    "Other curves 2",
    "Notes note cat",
    "✗ dog 90% label: cat",
    "12 of 15 correct",
    "dog cat 2 22.2% cat dog 1 16.7%",
    "dog cat 77.8% 9 cat dog 83.3% 6",
    "Expected calibration error: 1.23%",
    "13 in 2 arrays",
    "cat 3 × 4 12 scale – 1 total 13",
    "model.cat 'cat' model.depth 2 empty {}",
    "jax 0.10",
  ):
    assert " ".join(part.split()) in text, part


def test_the_page_is_self_contained(tmp_path):
  source, page = render(tmp_path, full_report())
  loading = {"script", "link", "iframe", "object", "embed", "base", "form"}
  assert not loading & {tag for tag, _ in page.tags}
  assert not re.search(r"https?:|@import|url\(", source)
  for tag, attrs in page.tags:
    assert not [name for name in attrs if name.startswith("on")]
    assert attrs.get("src", "data:image/").startswith("data:image/")
    assert "href" not in attrs, tag
  assert all(attrs["alt"] for attrs in page.all("img"))
  for svg in page.images("svg+xml"):
    for element in ET.fromstring(svg).iter():
      assert "script" not in element.tag
      for name, value in element.attrib.items():
        if name.endswith("href"):
          assert value.startswith(("#", "data:image/"))


@pytest.fixture(scope="module")
def harmless_tags(tmp_path_factory):
  """Returns the tags of a report with harmless names."""
  _, page = render(tmp_path_factory.mktemp("harmless"), full_report())
  return [tag for tag, _ in page.tags]


@pytest.mark.parametrize(
  "name", [EVIL, "</style></p>", "\x00\udcff", "猫&amp;"]
)
def test_hostile_names_are_shown_as_text(tmp_path, name, harmless_tags):
  source, page = render(tmp_path, full_report(name))
  assert [tag for tag, _ in page.tags] == harmless_tags
  assert "<script" not in source
  assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", source)
  if name.isprintable():
    assert "".join(page.text).count(name) >= 10
  for svg in page.images("svg+xml"):
    ET.fromstring(svg)


def test_empty_parts_are_left_out(tmp_path):
  source, _ = render(tmp_path, Report(title="bare", summary={}))
  body = source.partition("<body>")[2]
  assert re.sub(r"\s+", "", body) == (
    "<main><header><h1>bare</h1></header></main></body></html>"
  )


PARTS = {
  "summary": 'class="headline"',
  "published": "Comparison with the published results",
  "records": "Curves",
  "sections": "Calibration",
  "config": "Configuration",
  "versions": "Versions",
  "parameters": "Parameters",
}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_can_be_left_out(tmp_path, part):
  empty = Report(title="empty", summary={})
  changes = {part: getattr(empty, part)}
  source, _ = render(tmp_path, full_report(**changes))
  body = source.partition("<body>")[2]
  present = {name for name, mark in PARTS.items() if mark in body}
  assert present == set(PARTS) - {part}


def test_a_summary_of_one_number_has_no_list_of_facts(tmp_path):
  source, _ = render(tmp_path, Report(title="a", summary={"loss": 1.5}))
  assert "1.5" in source
  assert "<dl" not in source


@pytest.mark.parametrize(
  ("value", "shown"),
  [
    (0.123456, "0.1235"),
    (9999.4, "9999"),
    (9999.6, "10,000"),
    (np.float32(-86400.5), "-86,400"),
    (2e15, "2e+15"),
    (math.inf, "inf"),
  ],
)
def test_numbers_are_rounded_and_large_ones_written_out(value, shown):
  assert templates.format_value(value) == shown


def test_records_without_finite_values_have_no_plot(tmp_path):
  lines = [{"step": 1, "train/loss": math.nan}]
  _, page = render(tmp_path, Report(title="a", summary={}, records=lines))
  assert not page.all("img")


def test_a_source_without_numbers_is_left_out(tmp_path):
  report = full_report(published={"source": "Table 1"})
  source, _ = render(tmp_path, report)
  assert "Table 1" not in source


def test_a_missing_number_has_no_difference(tmp_path):
  report = full_report(published={"eval_top5": 0.9, "device": "TPU"})
  text = " ".join(" ".join(render(tmp_path, report)[1].text).split())
  assert "eval top5 – 0.9 – device cat TPU –" in text


def test_sections_are_in_order_and_may_be_folded(tmp_path):
  parts = [
    sections.Section("first", "1", folded=True),
    sections.Section("second", "2"),
  ]
  source, page = render(tmp_path, Report(title="a", summary={}, sections=parts))
  assert " ".join(" ".join(page.text).split()) == "a a first 1 second 2"
  assert source.count("<details>") == 1


def test_a_failed_write_keeps_the_previous_report(tmp_path, monkeypatch):
  source, _ = render(tmp_path, full_report())

  def full(self, data):
    with self.open("wb") as file:
      file.write(data[:100])
    raise OSError("no space left on device")

  monkeypatch.setattr(pathlib.Path, "write_bytes", full)
  with pytest.raises(OSError, match="no space"):
    write_report(tmp_path / "report.html", full_report("dog"))
  assert (tmp_path / "report.html").read_text(encoding="utf-8") == source


def test_no_temporary_file_is_left(tmp_path):
  write_report(str(tmp_path / "report.html"), full_report())
  assert os.listdir(tmp_path) == ["report.html"]

import base64
import io
import math
import re
import xml.etree.ElementTree as ET

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_jax.viz import plots
from perceiver_jax.viz.text import printable, shorten

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
  root = ET.fromstring(svg)
  assert root.tag == f"{SVG}svg"
  return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def records(**columns):
  steps = range(0, 10 * len(next(iter(columns.values()))), 10)
  rows = zip(*columns.values(), strict=True)
  return [
    {"step": step, **dict(zip(columns, row, strict=True))}
    for step, row in zip(steps, rows, strict=True)
  ]


LOSSES = [
  {"step": 0, "train/loss": 2.0},
  {"step": 10, "train/loss": 1.0, "eval/loss": 1.5},
  {"step": 20, "train/loss": 0.5, "eval/loss": 1.2},
]


def test_curves_have_a_title_a_legend_and_an_axis():
  svg = plots.curves(LOSSES, ["train/loss", "eval/loss"], "loss")
  assert {"loss", "train/loss", "eval/loss", "step"} <= set(texts(svg))


def test_a_line_named_like_the_plot_needs_no_legend():
  svg = plots.curves(records(lr=[1.0, 2.0]), ["lr"], "lr")
  assert texts(svg).count("lr") == 1


def test_curves_use_the_text_color_of_the_page():
  svg = plots.curves(LOSSES, ["train/loss"], "loss").decode()
  assert "currentColor" in svg
  assert "prefers-color-scheme" in svg
  assert plots.INK not in svg


def test_the_same_data_give_the_same_bytes():
  first, second = (plots.curves(LOSSES, ["train/loss"], "l") for _ in "ab")
  assert first == second


def tick_labels(svg):
  return {text for text in texts(svg) if re.fullmatch(r"[\d.]+k?", text)}


def test_log_scale_marks_decades():
  line = records(loss=[0.001, 0.1, 10.0])
  labels = {"0.001", "0.01", "0.1", "1", "10"}
  assert labels <= tick_labels(plots.curves(line, ["loss"], "loss", log=True))
  assert not labels <= tick_labels(plots.curves(line, ["loss"], "loss"))


def test_the_scale_is_linear_if_a_value_is_not_positive():
  line = records(loss=[0.0, 0.1, 10.0])
  linear = plots.curves(line, ["loss"], "loss")
  assert plots.curves(line, ["loss"], "loss", log=True) == linear


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, -math.inf]])
def test_a_plot_without_finite_values_says_no_values(values):
  lines = [{"step": i, "loss": v} for i, v in enumerate(values)]
  assert "no values" in texts(plots.curves(lines, ["loss"], "loss", log=True))


def test_a_single_step_has_one_whole_tick():
  svg = plots.curves([{"step": 7, "loss": 1.0}], ["loss"], "loss")
  assert "7" in texts(svg)
  assert not [t for t in texts(svg) if "." in t and t.startswith(("6", "7"))]


def test_more_lines_than_colors_are_drawn():
  names = [f"eval/loss_{i}" for i in range(9)]
  lines = records(**{name: [1.0, 2.0] for name in names})
  svg = plots.curves(lines, names, "x")
  assert set(names) <= set(texts(svg))


def test_special_names_of_matplotlib_are_escaped():
  svg = plots.curves(records(_a=[1.0], b=[2.0]), ["_a", "b"], "$x$ <b>")
  assert {"a", "b", "$x$ <b>"} <= set(texts(svg))


def test_plots_do_not_change_the_state_of_matplotlib():
  before = dict(matplotlib.rcParams)
  plots.curves(LOSSES, ["train/loss"], "loss")
  plots.confusion_matrix(np.eye(3), ["a", "b", "c"])
  plots.reliability_diagram(np.ones((15, 3)))
  assert dict(matplotlib.rcParams) == before
  assert plt.get_fignums() == []


def test_series_sorts_by_step_and_drops_values_that_are_not_finite():
  lines = [
    {"step": 3, "x": 30.0},
    {"step": 1, "x": 10.0},
    {"step": 2, "x": math.nan},
    {"step": 4},
  ]
  steps, values = plots.series(lines, "x")
  np.testing.assert_array_equal(steps, [1, 3])
  np.testing.assert_array_equal(values, [10.0, 30.0])
  assert [len(part) for part in plots.series(lines, "y")] == [0, 0]


def test_by_metric_groups_across_splits_with_the_loss_first():
  lines = [
    {"step": 1, "train/top1": 0.1, "train/loss": 2.0, "lr": 0.1},
    {"step": 2, "eval/top1": 0.2, "eval/loss": 1.0, "eval/bad": math.nan},
  ]
  groups = plots.by_metric(lines)
  assert list(groups.items()) == [
    ("loss", ["train/loss", "eval/loss"]),
    ("top1", ["train/top1", "eval/top1"]),
    ("lr", ["lr"]),
  ]
  assert plots.by_metric([]) == {}


def test_a_small_confusion_matrix_has_names_and_counts():
  matrix = np.array([[70, 3], [0, 81]])
  labels = texts(plots.confusion_matrix(matrix, ["cat", "dog"]))
  # Names are along both axes; zeros are not written.
  assert sorted(labels) == sorted(
    ["cat", "dog", "cat", "dog", "70", "3", "81", "label", "prediction"]
  )


def plotted_confusion(monkeypatch, matrix, names):
  """Returns the shares that are drawn, and the plot."""
  drawn = []
  imshow = matplotlib.axes.Axes.imshow

  def spy(self, data, **kwargs):
    drawn.append(np.asarray(data))
    return imshow(self, data, **kwargs)

  monkeypatch.setattr(matplotlib.axes.Axes, "imshow", spy)
  svg = plots.confusion_matrix(matrix, names)
  return drawn[0], svg


def test_a_confusion_matrix_is_colored_by_shares_of_rows(monkeypatch):
  matrix = np.array([[30, 10], [0, 0]])
  shares, _ = plotted_confusion(monkeypatch, matrix, ["cat", "dog"])
  np.testing.assert_allclose(shares, [[0.75, 0.25], [0, 0]])


def test_a_large_confusion_matrix_has_names_but_no_counts(monkeypatch):
  names = [f"class {i:03d}" for i in range(plots.MAX_LABELS)]
  matrix = np.diag(np.full(plots.MAX_LABELS, 7))
  shares, svg = plotted_confusion(monkeypatch, matrix, names)
  np.testing.assert_array_equal(shares, np.eye(plots.MAX_LABELS))
  labels = [t for t in texts(svg) if t.startswith("class")]
  assert labels == names * 2
  assert "7" not in texts(svg)


def heights(monkeypatch, table):
  """Returns the bars of accuracies and of shares of examples, and the plot."""
  bars = []
  bar = matplotlib.axes.Axes.bar

  def spy(self, x, height, width, **kwargs):
    bars.append((np.asarray(x), np.asarray(height), width))
    return bar(self, x, height, width, **kwargs)

  monkeypatch.setattr(matplotlib.axes.Axes, "bar", spy)
  return bars, plots.reliability_diagram(table)


def test_a_reliability_diagram_has_accuracy_and_examples_by_confidence(
  monkeypatch,
):
  table = np.float32([[0, 0, 0], [4, 1.5, 1], [4, 2.5, 3], [8, 7, 8]])
  (above, below), svg = heights(monkeypatch, table)
  np.testing.assert_allclose(above[0], [0, 0.25, 0.5, 0.75])
  np.testing.assert_allclose(above[1], [0, 0.25, 0.75, 1])
  np.testing.assert_allclose(below[1], [0, 0.25, 0.25, 0.5])
  assert 0.2 < above[2] <= 0.25
  assert {"accuracy", "confidence", "examples"} <= set(texts(svg))
  assert any(text.endswith("%") for text in texts(svg))


def test_a_reliability_diagram_without_examples_is_empty(monkeypatch):
  (above, below), _ = heights(monkeypatch, np.zeros((15, 3)))
  assert not above[1].any()
  assert not below[1].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_frequent_mistakes_exclude_the_diagonal_and_zeros(dtype):
  matrix = np.array([[9, 1, 0], [5, 9, 2], [0, 0, 9]], dtype)
  assert plots.frequent_mistakes(matrix, 2) == [(1, 0, 5), (1, 2, 2)]
  assert plots.frequent_mistakes(matrix, 9)[2:] == [(0, 1, 1)]
  assert matrix[0, 0] == 9


@pytest.mark.parametrize(
  ("matrix", "names"),
  [(np.eye(3), ["a", "b"]), (np.zeros((0, 0)), []), (np.eye(51), ["a"] * 51)],
)
def test_a_confusion_matrix_of_another_size_is_refused(matrix, names):
  with pytest.raises(ValueError, match="class names"):
    plots.confusion_matrix(matrix, names)


def _loudest_rows(svg):
  """Returns the height, from 0 to 1, of each spectrogram's darkest row."""
  found = []
  for image in ET.fromstring(svg).iter(f"{SVG}image"):
    url = image.get("{http://www.w3.org/1999/xlink}href")
    data = base64.b64decode(url.partition(",")[2])
    alpha = plt.imread(io.BytesIO(data))[..., 3].mean(axis=1)
    # Matplotlib embeds images upside down and flips them by a transform.
    found.append((alpha.argmax() + 0.5) / len(alpha))
  return found


@pytest.mark.filterwarnings("error")
def test_sounds_are_compared_by_waveform_and_spectrogram():
  times = np.arange(4000) / 8000
  tones = {
    "original": 0.5 * np.sin(2 * np.pi * 1000 * times),
    "$decoded": 0.5 * np.sin(2 * np.pi * 3000 * times),
  }
  svg = plots.audio_comparison(tones, 8000)
  labels = texts(svg)
  assert labels.count("original") == labels.count("$decoded") == 2
  assert {"seconds", "Hz", "4k"} <= {*labels}
  np.testing.assert_allclose(_loudest_rows(svg), (0.25, 0.75), atol=0.03)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("length", [16, 100])
def test_silence_and_short_sounds_can_be_compared(length):
  silence = np.zeros(length, np.float32)
  svg = plots.audio_comparison({"original": silence, "b": silence}, 8000)
  assert "original" in texts(svg)


HOSTILE = ["<script>", "]]>", "a & b", "$x_1$", "\x00\x0b", "\udcff", "猫", ""]


@pytest.mark.filterwarnings("error")
def test_hostile_class_names_are_escaped():
  labels = texts(plots.confusion_matrix(np.eye(len(HOSTILE)), HOSTILE))
  assert {"<script>", "]]>", "a & b", "$x_1$", "猫", "� "} <= set(labels)


def test_long_class_names_are_shortened():
  labels = texts(plots.confusion_matrix(np.eye(2), ["a" * 18, "b" * 19]))
  assert "a" * 18 in labels
  assert "b" * 17 + "…" in labels


@given(st.text(st.characters(categories=None)))
def test_printable_text_is_valid_in_xml_and_keeps_its_length(text):
  out = printable(text)
  assert len(out) == len(text)
  assert all(a == b for a, b in zip(text, out, strict=True) if a.isalnum())
  ET.fromstring(f"<a>{''.join(c for c in out if c not in '<&')}</a>".encode())


def test_shorten_includes_the_ellipsis_in_the_length():
  assert shorten("abcd", 4) == "abcd"
  assert shorten("abcde", 4) == "abc…"

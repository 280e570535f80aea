"""Tests of the examples that reports on classification show."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from perceiver_jax.tasks.shared import classification
from perceiver_jax.viz import sections


def _metrics(labels, predictions=None, confidence=None, index=None):
  """Returns metrics of right, sure predictions where nothing else is given."""
  values = {
    "index": np.arange(len(labels)) if index is None else index,
    "label": labels,
    "prediction": labels if predictions is None else predictions,
    "confidence": np.ones(len(labels)) if confidence is None else confidence,
  }
  return {f"example_{name}": np.array(x) for name, x in values.items()}


def test_samples_take_each_class_in_turn():
  labels = [9] * 30 + [1] * 2 + [4]
  spread, mistakes = classification.choose_samples(_metrics(labels))
  assert [labels[i] for i in spread] == [1, 4, 9, 1, *[9] * 8]
  assert len({*spread}) == 12
  assert mistakes == []


def test_samples_of_many_classes_are_spread_over_them():
  labels = np.repeat(np.arange(1000), 3)
  spread, _ = classification.choose_samples(_metrics(labels))
  shown = labels[spread]
  assert (shown[0], shown[-1], len({*shown})) == (0, 999, 12)
  assert np.diff(shown).max() < 100


def test_mistakes_are_the_most_confident_of_the_whole_set():
  rng = np.random.default_rng(0)
  labels, predictions = rng.integers(0, 5, (2, 1000))
  confidence = rng.uniform(size=1000)
  _, mistakes = classification.choose_samples(
    _metrics(labels, predictions, confidence)
  )
  wrong = [i for i in range(1000) if labels[i] != predictions[i]]
  assert mistakes == sorted(wrong, key=lambda i: -confidence[i])[:12]


def test_padding_and_unreadable_examples_are_not_chosen():
  samples = classification.choose_samples(
    _metrics([0, 0, 1, 1], [1, 1, 1, 1], [0.5, 1, 1, 1], [7, -1, 8, -1])
  )
  assert samples == ([7, 8], [7])


@hypothesis.given(st.lists(st.tuples(*[st.integers(0, 4)] * 2), max_size=60))
def test_chosen_examples_are_few_different_and_of_their_kind(pairs):
  labels, predictions = np.array(pairs, int).reshape(-1, 2).T
  samples = classification.choose_samples(_metrics(labels, predictions))
  for kind in samples:
    assert len({*kind}) == len(kind) <= 12
  assert len(samples.spread) == min(12, len(pairs))
  classes = min(12, len({*labels}))
  assert len({*labels[samples.spread]}) == classes
  assert (labels[samples.mistakes] != predictions[samples.mistakes]).all()
  both = samples.interleaved()
  assert {*both} == {*samples.spread, *samples.mistakes}
  assert len({*both}) == len(both)


def test_a_report_of_fewer_examples_still_has_both_kinds():
  metrics = _metrics([0, 1, 2, 3], [0, 1, 3, 2], [0.1, 0.2, 0.3, 0.4])
  samples = classification.choose_samples(metrics)
  assert samples.interleaved() == [0, 3, 1, 2]
  batch = {"index": np.array([0, 3])}
  shown = classification.sample_sections(
    ["first", "second"], batch, metrics,
    lambda chosen, title: sections.Section(title, ", ".join(chosen)),
  )  # fmt: skip
  assert shown == [
    sections.Section(sections.SAMPLES, "first, second"),
    sections.Section(sections.MISTAKES, "second"),
  ]

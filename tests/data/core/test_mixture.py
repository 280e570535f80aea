"""Tests of sources that are mixed by weight."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.data.core import mixture
from perceiver_jax.data.text import masking

_few = settings(max_examples=50, deadline=None)


class Texts(list):
  in_memory = True


def _mixture(sizes, weights):
  sources = {
    name: masking.JoinedDocuments(Texts(f"{name}{i}" for i in range(size)), 1)
    for name, size in sizes.items()
  }
  return mixture.Mixture(sources, weights)


def test_a_mixture_follows_its_weights_and_contains_every_example():
  mixed = _mixture({"a": 1500, "b": 20}, {"a": 7, "b": 3})
  texts = [mixed[i]["text"] for i in range(len(mixed))]
  assert sum(t.startswith("a") for t in texts) == 0.7 * len(texts)
  assert len(set(texts)) == 1520
  assert [mixed[i]["position"] for i in (0, 1999)] == [0, 1999]


def test_a_mixture_of_one_source_has_its_examples():
  mixed = _mixture({"a": 3}, {"a": 0.2})
  assert sorted(mixed[i]["text"] for i in range(len(mixed))) == [
    "a0", "a1", "a2",
  ]  # fmt: skip


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9))
@_few
def test_every_source_occurs_whatever_its_weight(weights):
  names = [f"s{i}" for i in range(len(weights))]
  mixed = _mixture(
    dict.fromkeys(names, 1), dict(zip(names, weights, strict=True))
  )
  texts = {mixed[i]["text"] for i in range(len(mixed))}
  assert texts == {f"{name}0" for name in names}


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_that_are_not_positive_and_finite_are_refused(weight):
  with pytest.raises(ValueError, match="mixture weights must be positive"):
    _mixture({"a": 2}, {"a": weight})


def test_a_mixture_without_sources_is_refused():
  with pytest.raises(ValueError, match="mixture weights"):
    mixture.Mixture({}, {})

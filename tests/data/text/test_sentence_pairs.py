"""Tests of joining one or two texts to a row of tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.data.text import byte_tokenizer, sentence_pairs, tokenizers

_BYTES = tokenizers.Bytes()


def _join(texts, length, first=None):
  return sentence_pairs.join(texts, _BYTES, length, first)


def _ids(text):
  return list(byte_tokenizer.encode(text))


@pytest.mark.parametrize(
  ("texts", "length", "first", "expected"),
  [
    (("ab",), 4, None, [*_ids("ab"), 0, 0]),
    (("ab",), 4, 4, [4, *_ids("ab"), 0]),
    (("abcdef",), 4, 4, [4, *_ids("abc")]),
    (("ab", "c"), 5, None, [*_ids("ab"), 5, *_ids("c"), 0]),
    (("abcdef", "c"), 5, None, [*_ids("abc"), 5, *_ids("c")]),
    (("a", "bcdef"), 5, None, [*_ids("a"), 5, *_ids("bcd")]),
    (("abcdef", "ghijkl"), 6, 300, [300, *_ids("ab"), 5, *_ids("gh")]),
    (("", ""), 3, None, [5, 0, 0]),
    (("é",), 1, None, _ids("é")[:1]),
    (("\ud800x",), 3, None, [*_ids("?x"), 0]),
  ],
)
def test_join_separates_truncates_and_pads_texts(
  texts, length, first, expected
):
  ids = _join(texts, length, first)
  assert ids.dtype == np.int32
  np.testing.assert_array_equal(ids, expected)


def test_only_the_start_of_a_long_text_is_encoded(monkeypatch):
  encoded = []
  monkeypatch.setattr(
    _BYTES, "encode", lambda text: encoded.append(text) or np.zeros(0, np.int32)
  )
  _join(("x" * 10_000_000,), 16)
  assert len(encoded[0]) == 16


@settings(max_examples=50, deadline=None)
@given(
  st.lists(st.text(max_size=12), min_size=1, max_size=2),
  st.integers(4, 20),
  st.booleans(),
)
def test_the_length_is_filled_and_each_text_keeps_its_start(
  texts, length, first
):
  lead = [byte_tokenizer.CLS] if first else []
  joined = _join(texts, length, lead[0] if first else None)
  sizes = [len(text.encode("utf-8", "replace")) for text in texts]
  whole = len(lead) + sum(sizes) + len(texts) - 1
  real = joined[joined != byte_tokenizer.PAD]
  # Two truncated texts share an odd length, of which one byte may be unused.
  assert min(whole, length) - 1 <= len(real) <= min(whole, length)
  parts = np.split(real, np.flatnonzero(real == byte_tokenizer.SEP))
  for i, (text, part) in enumerate(zip(texts, parts, strict=True)):
    own = part[len(lead) :] if i == 0 else part[1:]
    ids = _ids(text.encode("utf-8", "replace").decode())
    assert list(own) == ids[: len(own)]

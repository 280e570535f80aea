"""Crops of documents, and words hidden whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.data.text import masking, tokenizers
from perceiver_jax.data.text.byte_tokenizer import MASK, PAD
from perceiver_jax.errors import UserError

_few = settings(max_examples=50, deadline=None)
_bytes = tokenizers.make_tokenizer("bytes")


class Texts(list):
  in_memory = True


def _rng(seed=0):
  return np.random.default_rng(seed)


def _hidden(text, rate=0.5, length=64, seed=0):
  """The example, and what stands where words are hidden."""
  found = masking.masked_example(
    {"text": text}, _bytes, length, rate, _rng(seed)
  )
  shown = np.where(found["masked"], MASK, found["tokens"])
  return found, _bytes.display(shown[found["tokens"] != PAD])


def test_documents_follow_each_other_and_the_first_the_last():
  joined = masking.JoinedDocuments(Texts("abc"), 2)
  assert [joined[i]["text"] for i in range(3)] == ["a\n\nb", "b\n\nc", "c\n\na"]


def test_few_documents_are_not_repeated_in_an_example():
  assert masking.JoinedDocuments(Texts("ab"), 10)[1]["text"] == "b\n\na"


def test_no_documents_an_example_are_refused():
  with pytest.raises(UserError, match="documents_per_example is 0"):
    masking.JoinedDocuments(Texts("ab"), 0)


def test_words_are_hidden_whole_with_the_space_before():
  _, shown = _hidden("one two three four five six", rate=0.5, seed=1)
  parts = shown.replace("[MASK]", "#")
  words = ["one", " two", " three", " four", " five", " six"]
  for word in words:
    whole, hole = word in parts, "#" * len(word) in parts
    assert whole or hole, (word, parts)
  assert "#" in parts
  assert any(word in parts for word in words)


def test_each_word_is_hidden_with_the_given_chance():
  words = np.arange(20_000)
  share = masking.choose_masked_words(words, 0.15, _rng()).mean()
  assert abs(share - 0.15) < 0.01


def test_one_word_is_hidden_at_least():
  assert masking.choose_masked_words(np.zeros(3, int), 1e-9, _rng()).all()


@pytest.mark.parametrize("text", ["", " \n\t ", "\n\n"])
def test_text_without_words_has_nothing_to_hide(text):
  found, _ = _hidden(text)
  assert not found["masked"].any()
  assert (found["tokens"] != PAD).sum() == len(text)


@given(st.text(max_size=100), st.integers(1, 40), st.integers(0, 5))
@_few
def test_any_text_fits_any_length(text, length, seed):
  found, _ = _hidden(text, length=length, seed=seed)
  real = found["tokens"] != PAD
  assert real.sum() == min(length, len(text.encode()))
  assert real[: real.sum()].all()
  assert not found["masked"][~real].any()
  assert _bytes.decode(found["tokens"][real]).rstrip("\ufffd") in text


def test_a_crop_is_full_and_can_begin_anywhere():
  text = "".join(chr(97 + i % 26) for i in range(200))
  starts = {
    _bytes.decode(masking.crop(text, _bytes, 50, _rng(s))) for s in range(40)
  }
  assert len(starts) > 15
  assert {len(part) for part in starts} == {50}


def test_an_emoji_may_be_cut_at_the_end_and_is_shown_safely():
  tokens = masking.crop("ab😀", _bytes, 4, _rng())
  assert len(tokens) == 4
  assert _bytes.display(tokens).startswith("ab")
  assert "\ufffd" in _bytes.display(tokens)


def test_ten_million_characters_and_nul_bytes():
  found, _ = _hidden("word\0 " * 1_700_000, length=128)
  assert (found["tokens"] != PAD).all()


def test_the_same_generator_makes_the_same_example():
  text = "some words that can be hidden " * 9
  one, two = (_hidden(text, seed=3)[0] for _ in range(2))
  other = _hidden(text, seed=4)[0]
  for name in ("tokens", "masked"):
    np.testing.assert_array_equal(one[name], two[name])
    assert (one[name] != other[name]).any()

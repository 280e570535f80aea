"""Tests of cropping documents and of whole-word masking."""

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


def _masked(text, rate=0.5, length=64, seed=0):
  """Returns a masked example, and its text with [MASK]."""
  example = masking.masked_example(
    {"text": text}, _bytes, length, rate, _rng(seed)
  )
  ids = np.where(example["masked"], MASK, example["tokens"])
  return example, _bytes.display(ids[example["tokens"] != PAD])


def test_consecutive_documents_are_joined_and_wrap_around():
  joined = masking.JoinedDocuments(Texts("abc"), 2)
  assert [joined[i]["text"] for i in range(3)] == ["a\n\nb", "b\n\nc", "c\n\na"]


def test_few_documents_are_not_repeated_in_an_example():
  assert masking.JoinedDocuments(Texts("ab"), 10)[1]["text"] == "b\n\na"


def test_zero_documents_per_example_are_refused():
  with pytest.raises(UserError, match="documents_per_example is 0"):
    masking.JoinedDocuments(Texts("ab"), 0)


def test_whole_words_are_masked_with_the_space_before():
  _, text = _masked("one two three four five six", rate=0.5, seed=1)
  text = text.replace("[MASK]", "#")
  words = ["one", " two", " three", " four", " five", " six"]
  for word in words:
    assert word in text or "#" * len(word) in text, (word, text)
  assert "#" in text
  assert any(word in text for word in words)


def test_each_word_is_masked_with_the_given_probability():
  words = np.arange(20_000)
  share = masking.choose_masked_words(words, 0.15, _rng()).mean()
  assert abs(share - 0.15) < 0.01


def test_at_least_one_word_is_masked():
  assert masking.choose_masked_words(np.zeros(3, int), 1e-9, _rng()).all()


@pytest.mark.parametrize("text", ["", " \n\t ", "\n\n"])
def test_text_without_words_has_no_masked_tokens(text):
  example, _ = _masked(text)
  assert not example["masked"].any()
  assert (example["tokens"] != PAD).sum() == len(text)


@given(st.text(max_size=100), st.integers(1, 40), st.integers(0, 5))
@_few
def test_any_text_is_cropped_or_padded_to_any_length(text, length, seed):
  example, _ = _masked(text, length=length, seed=seed)
  real = example["tokens"] != PAD
  assert real.sum() == min(length, len(text.encode()))
  assert real[: real.sum()].all()
  assert not example["masked"][~real].any()
  assert _bytes.decode(example["tokens"][real]).rstrip("\ufffd") in text


def test_a_crop_has_the_full_length_and_may_start_anywhere():
  text = "".join(chr(97 + i % 26) for i in range(200))
  crops = {
    _bytes.decode(masking.crop(text, _bytes, 50, _rng(s))) for s in range(40)
  }
  assert len(crops) > 15
  assert {len(crop) for crop in crops} == {50}


def test_a_truncated_character_at_the_end_of_a_crop_is_displayed():
  tokens = masking.crop("ab😀", _bytes, 4, _rng())
  assert len(tokens) == 4
  assert _bytes.display(tokens).startswith("ab")
  assert "\ufffd" in _bytes.display(tokens)


def test_a_text_of_ten_million_characters_fills_an_example():
  example, _ = _masked("word\0 " * 1_700_000, length=128)
  assert (example["tokens"] != PAD).all()


def test_an_example_depends_on_the_generator_alone():
  text = "some words that can be masked " * 9
  one, two = (_masked(text, seed=3)[0] for _ in range(2))
  other = _masked(text, seed=4)[0]
  for name in ("tokens", "masked"):
    np.testing.assert_array_equal(one[name], two[name])
    assert (one[name] != other[name]).any()

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.evaluation import ngram

_SENTENCES = [b"the cat sat on the mat. ", b"the dog ran to the house. "] * 5
_MASK = b"?"


def _masked(text):
  return np.frombuffer(text, np.uint8) == _MASK[0]


def _fill(model, text, **kwargs):
  return model.fill(text, _masked(text), **kwargs)


@settings(deadline=None)
@given(
  st.lists(st.binary(max_size=20), max_size=4), st.binary(), st.integers(1, 4)
)
def test_probabilities_sum_to_one(texts, context, order):
  probabilities = ngram.NGram(texts, order).probabilities(context)
  assert probabilities.shape == (256,)
  assert probabilities.sum() == pytest.approx(1)
  assert (probabilities > 0).all()


def test_order_1_interpolates_frequencies_with_uniform_ones():
  text = b"abracadabra"
  probabilities = ngram.NGram([text], 1).probabilities(b"abr")
  counts = collections.Counter(text)
  expected = np.full(256, 5 / 256)
  for byte, count in counts.items():
    expected[byte] += count
  np.testing.assert_allclose(probabilities, expected / (11 + 5))


def test_a_longer_context_is_interpolated_with_the_shorter_one():
  model = ngram.NGram([b"abac", b"ab"], 2)
  unigram = model.probabilities(b"")
  # The bytes after a are b, c and b: 3 bytes, 2 of them different.
  probabilities = model.probabilities(b"za")
  assert probabilities[ord("b")] == pytest.approx(
    (2 + 2 * unigram[ord("b")]) / 5
  )
  assert probabilities[ord("x")] == pytest.approx(2 * unigram[ord("x")] / 5)
  np.testing.assert_array_equal(model.probabilities(b"z"), unigram)


def test_contexts_do_not_cross_texts():
  whole, parts = ngram.NGram([b"ab"], 2), ngram.NGram([b"a", b"b"], 2)
  b = ord("b")
  assert whole.probabilities(b"a")[b] > parts.probabilities(b"a")[b]


def test_without_texts_all_bytes_are_equally_likely():
  model = ngram.NGram([])
  np.testing.assert_allclose(model.probabilities(b"any"), 1 / 256)


def test_fill_completes_a_text_of_the_training_data():
  model = ngram.NGram(_SENTENCES)
  filled = _fill(model, b"the ??? sat on?????mat. the d?g")
  assert filled == b"the cat sat on the mat. the dog"


def test_fill_considers_bytes_after_a_mask():
  model = ngram.NGram(_SENTENCES)
  assert _fill(model, b"the ??? sat") == b"the cat sat"
  assert _fill(model, b"the ??? ran") == b"the dog ran"
  # At the start of a text, there is no other context.
  assert _fill(model, b"??e dog") == b"the dog"


def test_filled_bytes_are_context_of_later_ones():
  model = ngram.NGram([b"x1-1q", b"y2-2q"], 3)
  # Only the first filled byte tells the second.
  assert _fill(model, b"x?-?q") == b"x1-1q"
  assert _fill(model, b"y?-?q") == b"y2-2q"


def test_a_wider_beam_avoids_the_mistake_of_a_greedy_choice():
  # After a space, a is the most likely byte, but only c is followed by Z.
  model = ngram.NGram([b" ax", b" ay", b" cZ"], 2)
  assert _fill(model, b" ?Z", beam=1) == b" aZ"
  assert _fill(model, b" ?Z", beam=4) == b" cZ"


def test_masked_bytes_of_a_later_word_have_no_effect():
  model = ngram.NGram(_SENTENCES)
  masked = _masked(b"the ??? ???")
  assert model.fill(b"the dog ran", masked) == model.fill(
    b"the cat sat", masked
  )


@settings(deadline=None, max_examples=30)
@given(st.data(), st.integers(1, 3))
def test_masked_bytes_have_no_effect_and_others_are_kept(data, order):
  model = ngram.NGram(_SENTENCES, order)
  text = data.draw(st.binary(max_size=12))
  size = len(text)
  masked = np.array(
    data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool
  )
  filled = model.fill(text, masked, beam=2)
  array = np.frombuffer(text, np.uint8)
  np.testing.assert_array_equal(
    np.frombuffer(filled, np.uint8)[~masked], array[~masked]
  )
  other = np.where(masked, 255 - array, array).astype(np.uint8).tobytes()
  assert model.fill(other, masked, beam=2) == filled


def test_accuracy_is_the_share_of_masked_bytes_predicted():
  model = ngram.NGram(_SENTENCES)
  predictable, random = b"the cat sat", b"the \xff\xfe\xfd\xfc."
  pairs = [
    (predictable, _masked(b"the ca? sat")),
    (random, _masked(b"the ???\xfc.")),
  ]
  assert ngram.accuracy(model, pairs) == pytest.approx(1 / 4)
  with pytest.raises(ValueError, match="no byte is masked"):
    ngram.accuracy(model, [(predictable, np.zeros(11, bool))])


def test_bits_per_byte_are_the_code_length_of_each_byte_after_those_before():
  model = ngram.NGram([b"abab"], 2)
  first = model.probabilities(b"")[ord("a")]
  second = model.probabilities(b"a")[ord("b")]
  expected = -np.log2([first, second]).sum() / 2
  assert ngram.bits_per_byte(model, [b"ab"]) == pytest.approx(expected)
  both = ngram.bits_per_byte(model, [b"ab", b"", b"ab"])
  assert both == pytest.approx(expected)
  with pytest.raises(ValueError, match="no byte is given"):
    ngram.bits_per_byte(model, [b""])


def test_orders_masks_and_beams_out_of_range_are_refused():
  model = ngram.NGram([b"ab"], 2)
  with pytest.raises(ValueError, match="order must be 1 or more, got 0"):
    ngram.NGram([], 0)
  with pytest.raises(ValueError, match=r"bool \[2\] like the bytes, got \(3,"):
    model.fill(b"ab", np.ones(3, bool))
  with pytest.raises(ValueError, match="beam must be 1 or more, got 0"):
    model.fill(b"ab", np.ones(2, bool), beam=0)

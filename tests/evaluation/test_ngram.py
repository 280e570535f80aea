import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.evaluation import ngram

_SENTENCES = [b"the cat sat on the mat. ", b"the dog ran to the house. "] * 5
_HOLE = b"?"


def _masked(text):
  return np.frombuffer(text, np.uint8) == _HOLE[0]


def _fill(model, text, **kwargs):
  return model.fill(text, _masked(text), **kwargs)


@settings(deadline=None)
@given(
  st.lists(st.binary(max_size=20), max_size=4), st.binary(), st.integers(1, 4)
)
def test_probabilities_are_a_distribution(texts, context, order):
  found = ngram.NGram(texts, order).probabilities(context)
  assert found.shape == (256,)
  assert found.sum() == pytest.approx(1)
  assert (found > 0).all()


def test_order_1_is_frequencies_mixed_with_equal_ones():
  text = b"abracadabra"
  found = ngram.NGram([text], 1).probabilities(b"abr")
  counts = collections.Counter(text)
  expected = np.full(256, 5 / 256)
  for byte, count in counts.items():
    expected[byte] += count
  np.testing.assert_allclose(found, expected / (11 + 5))


def test_a_longer_context_is_mixed_with_the_shorter_one():
  model = ngram.NGram([b"abac", b"ab"], 2)
  alone = model.probabilities(b"")
  # After an a there were b, c and b: 3 bytes, of which 2 are different.
  found = model.probabilities(b"za")
  assert found[ord("b")] == pytest.approx((2 + 2 * alone[ord("b")]) / 5)
  assert found[ord("x")] == pytest.approx(2 * alone[ord("x")] / 5)
  np.testing.assert_array_equal(model.probabilities(b"z"), alone)


def test_contexts_do_not_reach_from_text_to_text():
  whole, parts = ngram.NGram([b"ab"], 2), ngram.NGram([b"a", b"b"], 2)
  b = ord("b")
  assert whole.probabilities(b"a")[b] > parts.probabilities(b"a")[b]


def test_without_texts_all_bytes_are_as_likely():
  model = ngram.NGram([])
  np.testing.assert_allclose(model.probabilities(b"any"), 1 / 256)


def test_an_obvious_text_is_filled_in():
  model = ngram.NGram(_SENTENCES)
  found = _fill(model, b"the ??? sat on?????mat. the d?g")
  assert found == b"the cat sat on the mat. the dog"


def test_what_comes_after_counts():
  model = ngram.NGram(_SENTENCES)
  assert _fill(model, b"the ??? sat") == b"the cat sat"
  assert _fill(model, b"the ??? ran") == b"the dog ran"
  # Where the run is at the start, it is all there is.
  assert _fill(model, b"??e dog") == b"the dog"


def test_what_was_filled_in_is_context():
  model = ngram.NGram([b"x1-1q", b"y2-2q"], 3)
  # The second runs differ by nothing but the first ones.
  assert _fill(model, b"x?-?q") == b"x1-1q"
  assert _fill(model, b"y?-?q") == b"y2-2q"


def test_a_wider_beam_finds_what_a_greedy_choice_misses():
  # After a blank, a is the likeliest; but only c is followed by a Z.
  model = ngram.NGram([b" ax", b" ay", b" cZ"], 2)
  assert _fill(model, b" ?Z", beam=1) == b" aZ"
  assert _fill(model, b" ?Z", beam=4) == b" cZ"


def test_a_later_run_is_not_peeked_at():
  model = ngram.NGram(_SENTENCES)
  masked = _masked(b"the ??? ???")
  assert model.fill(b"the dog ran", masked) == model.fill(
    b"the cat sat", masked
  )


@settings(deadline=None, max_examples=30)
@given(st.data(), st.integers(1, 3))
def test_masked_bytes_are_not_read_and_others_stay(data, order):
  model = ngram.NGram(_SENTENCES, order)
  text = data.draw(st.binary(max_size=12))
  size = len(text)
  masked = np.array(
    data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool
  )
  found = model.fill(text, masked, beam=2)
  array = np.frombuffer(text, np.uint8)
  np.testing.assert_array_equal(
    np.frombuffer(found, np.uint8)[~masked], array[~masked]
  )
  hidden = np.where(masked, 255 - array, array).astype(np.uint8).tobytes()
  assert model.fill(hidden, masked, beam=2) == found


def test_accuracy_counts_bytes_not_texts():
  model = ngram.NGram(_SENTENCES)
  right, wrong = b"the cat sat", b"the \xff\xfe\xfd\xfc."
  pairs = [
    (right, _masked(b"the ca? sat")),
    (wrong, _masked(b"the ???\xfc.")),
  ]
  assert ngram.accuracy(model, pairs) == pytest.approx(1 / 4)
  with pytest.raises(ValueError, match="no byte is masked"):
    ngram.accuracy(model, [(right, np.zeros(11, bool))])


def test_what_does_not_fit_is_refused():
  model = ngram.NGram([b"ab"], 2)
  with pytest.raises(ValueError, match="order must be 1 or more, got 0"):
    ngram.NGram([], 0)
  with pytest.raises(ValueError, match=r"bool \[2\] like the bytes, got \(3,"):
    model.fill(b"ab", np.ones(3, bool))
  with pytest.raises(ValueError, match="beam must be 1 or more, got 0"):
    model.fill(b"ab", np.ones(2, bool), beam=0)

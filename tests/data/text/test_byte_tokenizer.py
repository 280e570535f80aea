import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.data.text import byte_tokenizer
from perceiver_jax.errors import UserError

# The example and its masked tokens in the authors' notebook.
_SENTENCE = "This is an incomplete sentence where some words are missing."
_MISSING = [38, 115, 111, 121, 121, 111, 116, 109, 52]


def test_the_tokens_are_those_of_the_published_model():
  assert byte_tokenizer.VOCAB_SIZE == 262
  assert byte_tokenizer.encode(" missing.").tolist() == _MISSING
  assert byte_tokenizer.decode(_MISSING) == " missing."


def test_the_authors_example_masks_positions_51_to_60():
  ids = byte_tokenizer.encode(_SENTENCE)
  assert ids[51:60].tolist() == _MISSING
  assert len(ids) == 60
  masked = byte_tokenizer.mask_words(_SENTENCE, " missing.")
  np.testing.assert_array_equal(np.flatnonzero(masked == 3), np.arange(51, 60))
  np.testing.assert_array_equal(masked[:51], ids[:51])
  assert byte_tokenizer.decode(masked) == _SENTENCE[:51]


@settings(deadline=None)
@given(st.text())
def test_decoding_undoes_encoding(text):
  ids = byte_tokenizer.encode(text)
  assert ids.dtype == np.int32
  assert len(ids) == len(text.encode())
  assert byte_tokenizer.decode(ids) == text


@settings(deadline=None)
@given(st.lists(st.integers(0, 261)))
def test_any_tokens_decode_to_printable_text(ids):
  byte_tokenizer.decode(ids).encode()
  line = byte_tokenizer.display(np.array(ids, np.uint16))
  assert line.isprintable()
  line.encode()


@settings(deadline=None)
@given(st.text(), st.data())
def test_decoding_drops_special_tokens(text, data):
  ids = byte_tokenizer.encode(text).tolist()
  for special in data.draw(st.lists(st.integers(0, 5), max_size=5)):
    ids.insert(data.draw(st.integers(0, len(ids))), special)
  assert byte_tokenizer.decode(ids) == text


def test_display_shows_special_tokens_and_replaces_control_characters():
  ids = [4, *byte_tokenizer.encode("a\n\x1b\u00e9"), 3, 3, 0xFF + 6, 5, 0]
  assert (
    byte_tokenizer.display(ids) == "[CLS]a \ufffdé[MASK][MASK]\ufffd[SEP][PAD]"
  )
  assert byte_tokenizer.display([]) == ""


@pytest.mark.parametrize("ids", [[-1], [262], [7, 2**40]])
def test_ids_out_of_range_are_refused(ids):
  with pytest.raises(ValueError, match=f"0 to 261, got {ids[-1]}"):
    byte_tokenizer.decode(ids)


def test_tokens_that_are_not_one_row_are_refused():
  for ids in ([7.0], [True]):
    with pytest.raises(ValueError, match="tokens must be integers"):
      byte_tokenizer.decode(ids)
  with pytest.raises(ValueError, match=r"one row \[L\], got shape \(1, 2\)"):
    byte_tokenizer.display([[7, 8]])


def test_text_that_is_not_utf_8_is_refused():
  # Python decodes a command-line argument with the Latin-1 byte 0xE9 like this.
  argument = b"caf\xe9".decode("utf-8", errors="surrogateescape")
  with pytest.raises(UserError, match=r"character 3 .*'\\udce9'") as error:
    byte_tokenizer.encode(argument)
  str(error.value).encode()


def test_mask_words_masks_every_byte_of_every_occurrence():
  masked = byte_tokenizer.mask_words("né, né.", "né")
  assert (
    byte_tokenizer.display(masked) == "[MASK]" * 3 + ", " + "[MASK]" * 3 + "."
  )
  # The words are not a regular expression.
  assert (
    byte_tokenizer.display(byte_tokenizer.mask_words("a.b", ".")) == "a[MASK]b"
  )


@pytest.mark.parametrize("words", ["", "Missing"])
def test_mask_words_refuses_words_that_are_not_in_the_text(words):
  with pytest.raises(UserError, match=f"'{words}' is not in the text"):
    byte_tokenizer.mask_words("missing", words)


def test_pad_returns_ids_and_input_mask():
  texts = [byte_tokenizer.encode(text) for text in ("ab", "", "abc")]
  ids, mask = byte_tokenizer.pad(texts, 3)
  assert ids.dtype == np.int32
  assert ids.tolist() == [[103, 104, 0], [0, 0, 0], [103, 104, 105]]
  assert mask.tolist() == [[True, True, False], [False] * 3, [True] * 3]
  ids, mask = byte_tokenizer.pad([], 3)
  assert ids.shape == mask.shape == (0, 3)


def test_pad_truncates_only_on_request():
  text = byte_tokenizer.encode("né!")
  with pytest.raises(UserError, match="has 4 tokens but the model takes 2"):
    byte_tokenizer.pad([text], 2)
  ids, mask = byte_tokenizer.pad([text], 2, cut=True)
  np.testing.assert_array_equal(ids[0], text[:2])
  assert mask.all()
  assert byte_tokenizer.decode(ids[0]) == "n\ufffd"

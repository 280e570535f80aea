import io
import pickle
import sys
from concurrent import futures

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.data.text import byte_tokenizer, tokenizers
from perceiver_jax.errors import UserError

_TEXT = "the cat sat on the mat, and the other cats sat near the old house "
# SentencePiece uses this character for a space, so it cannot be encoded.
_ANY = st.text(st.characters(exclude_characters="\u2581", codec="utf-8"))
_SPACES = st.sampled_from(" \t\n\r\v\f")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  """Trains a SentencePiece model of 275 subwords that keeps text unchanged."""
  import sentencepiece

  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([_TEXT, "  " + _TEXT]),
    model_writer=model,
    vocab_size=275,
    byte_fallback=True,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
    allow_whitespace_only_pieces=True,
    minloglevel=2,
  )
  path = tmp_path_factory.mktemp("models") / "tiny.model"
  path.write_bytes(model.getvalue())
  return path


@pytest.fixture(scope="module")
def subwords(path):
  return tokenizers.make_tokenizer(str(path))


@pytest.fixture(scope="module", params=["bytes", "subwords"])
def any_tokenizer(request):
  if request.param == "bytes":
    return tokenizers.make_tokenizer("bytes")
  return request.getfixturevalue("subwords")


def _words(tokenizer, text):
  """Returns the decoded text of each word."""
  ids = tokenizer.encode(text)
  words = tokenizer.words(ids)
  assert words.dtype == np.int32
  assert words.shape == ids.shape
  count = words.max(initial=-1) + 1
  return [tokenizer.decode(ids[words == i]) for i in range(count)]


@settings(deadline=None)
@given(_ANY)
def test_decoding_undoes_encoding(any_tokenizer, text):
  ids = any_tokenizer.encode(text)
  assert ids.dtype == np.int32
  assert (ids >= 6).all()
  assert (ids < any_tokenizer.vocab_size).all()
  assert any_tokenizer.decode(ids) == text


@settings(deadline=None)
@given(st.data())
def test_any_tokens_can_be_displayed(any_tokenizer, data):
  token = st.integers(0, any_tokenizer.vocab_size - 1)
  ids = np.array(data.draw(st.lists(token)), np.int32)
  any_tokenizer.decode(ids).encode()
  line = any_tokenizer.display(ids)
  assert line.isprintable()
  line.encode()
  assert any_tokenizer.words(ids).shape == ids.shape


@settings(deadline=None)
@given(st.text(_SPACES | st.sampled_from("aé,文")))
def test_words_are_separated_by_white_space(any_tokenizer, text):
  words = _words(any_tokenizer, text)
  assert [word.strip() for word in words] == text.split()


def test_a_word_of_bytes_includes_the_space_before_it():
  tokenizer = tokenizers.make_tokenizer("bytes")
  ids = tokenizer.encode("ab  c\n\nd ")
  assert tokenizer.words(ids).tolist() == [0, 0, -1, 1, 1, -1, 2, 2, -1]
  assert tokenizer.words(tokenizer.encode(" a")).tolist() == [0, 0]
  # Special tokens separate words and belong to none.
  a, b = tokenizer.encode("a"), tokenizer.encode("b")
  ids = np.array([byte_tokenizer.CLS, *a, byte_tokenizer.PAD, *b])
  assert tokenizer.words(ids).tolist() == [-1, 0, -1, 1]


def test_a_word_of_subwords_includes_the_space_before_it(subwords):
  text = "the  mat\n\nqz,\tat "
  ids = subwords.encode(text)
  texts = [subwords.display([i]) for i in ids]
  words = subwords.words(ids)
  spaces = [text.isspace() for text in texts]
  for i in np.flatnonzero(spaces):
    # A space belongs to the word after it, or to none.
    assert words[i] == -1 or words[i] == words[i + 1] != words[i - 1]
  assert (words[~np.array(spaces)] >= 0).all()
  assert [w.strip() for w in _words(subwords, text)] == text.split()


@settings(deadline=None)
@given(st.text(min_size=1), st.integers(1, 20))
def test_max_characters_are_enough_for_a_length(any_tokenizer, text, length):
  characters = any_tokenizer.max_characters(length)
  text = text * (characters // len(text) + 1)
  assert len(any_tokenizer.encode(text[:characters])) >= length


def test_all_tokenizers_have_the_same_special_tokens(any_tokenizer):
  ids = [byte_tokenizer.CLS, *any_tokenizer.encode("cat"), byte_tokenizer.MASK]
  assert any_tokenizer.decode(ids) == "cat"
  line = any_tokenizer.display([*ids, byte_tokenizer.SEP, byte_tokenizer.PAD])
  assert line.replace(" ", "") == "[CLS]cat[MASK][SEP][PAD]"


def test_bytes_that_are_not_a_character_are_replaced(subwords):
  # A character that is not a subword is encoded byte by byte.
  ids = subwords.encode("é")[-2:]
  assert subwords.decode(ids[:1]) == "\ufffd"
  assert subwords.display(ids) == "\ufffd\ufffd"
  assert subwords.display(subwords.encode("\n\x1b")[-2:]) == " \ufffd"


def test_ids_out_of_range_are_refused(any_tokenizer):
  size = any_tokenizer.vocab_size
  for call in (any_tokenizer.decode, any_tokenizer.display):
    for wrong in (-1, size):
      with pytest.raises(ValueError, match=f"0 to {size - 1}, got {wrong}"):
        call([7, wrong])


def test_a_lone_surrogate_is_refused(any_tokenizer):
  with pytest.raises(UserError, match="UTF-8 cannot encode"):
    any_tokenizer.encode("a\ud800")


def test_the_vocabulary_includes_six_special_tokens(subwords):
  assert tokenizers.make_tokenizer("bytes").vocab_size == 6 + 256
  assert subwords.vocab_size == 6 + 275


def test_a_tokenizer_can_be_pickled_and_used_by_threads(path):
  tokenizer = tokenizers.make_tokenizer(str(path))
  expected = tokenizer.encode(_TEXT).tolist()
  path.rename(path.with_suffix(".away"))
  try:
    copy = pickle.loads(pickle.dumps(tokenizer))
  finally:
    path.with_suffix(".away").rename(path)
  assert copy.vocab_size == tokenizer.vocab_size
  assert copy.words(copy.encode(_TEXT)).max() == len(_TEXT.split()) - 1
  with futures.ThreadPoolExecutor(8) as pool:
    for ids in pool.map(lambda _: copy.encode(_TEXT).tolist(), range(200)):
      assert ids == expected


@pytest.mark.parametrize("name", ["", "words", "Bytes", "tiny.vocab"])
def test_unknown_names_are_refused(name):
  with pytest.raises(UserError, match=r"give 'bytes' or the path of a"):
    tokenizers.make_tokenizer(name)


@pytest.mark.parametrize(
  "damage", ["empty", "truncated", "other", "folder", "missing"]
)
def test_damaged_and_missing_models_are_refused(path, tmp_path, damage):
  file = tmp_path / "bad.model"
  match damage:
    case "empty":
      file.touch()
    case "truncated":
      file.write_bytes(path.read_bytes()[:1000])
    case "other":
      file.write_text("some text")
    case "folder":
      file.mkdir()
  with pytest.raises(UserError, match=r"tokenizer=.*bad\.model .*model"):
    tokenizers.make_tokenizer(str(file))


def test_without_sentencepiece_the_extra_is_named(path, monkeypatch):
  monkeypatch.setitem(sys.modules, "sentencepiece", None)
  with pytest.raises(UserError, match=r"pip install 'perceiver_jax\[text\]'"):
    tokenizers.make_tokenizer(str(path))


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=9))
def test_bytes_belong_to_characters(text):
  tokenizer = tokenizers.make_tokenizer("bytes")
  ids = np.append(tokenizer.encode(text), byte_tokenizer.MASK)
  parts = np.split(ids, tokenizer.starts(ids)[1:])
  assert [tokenizer.decode(part) for part in parts] == [*text, ""]


def test_each_subword_starts_at_its_token(any_tokenizer):
  ids = any_tokenizer.encode("one two")
  starts = any_tokenizer.starts(ids)
  np.testing.assert_array_equal(starts, np.arange(len(ids)))

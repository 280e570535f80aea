import sys

import pytest

from perceiver_jax.data.text import corpora, tokenizers
from perceiver_jax.errors import UserError

# White space, characters and markers that SentencePiece may lose or join.
_TEXT = "Naïve  text,\n\n\tindented — 日本 \x00 <0x0A> <unk> \U0001f600 "


@pytest.fixture(scope="module")
def trained(script, tmp_path_factory):
  """Returns the tokenizer of a model of 400 tokens, and its file."""
  path = tmp_path_factory.mktemp("new") / "folder" / "small.model"
  done = script(
    "data.train_sentencepiece",
    "--python_docs",
    "--vocab_size=400",
    f"--out={path.with_suffix('')}",
  )
  assert done == (0, f"400 tokens written to {path}\n", "")
  return tokenizers.make_tokenizer(str(path)), path


def test_the_vocabulary_has_the_requested_size(trained):
  tokenizer, _ = trained
  assert tokenizer.vocab_size == 400


def test_decoding_undoes_encoding(trained):
  tokenizer, _ = trained
  for text in (_TEXT, *corpora.python_docs("test")[:20]):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_text_has_fewer_tokens_than_bytes(trained):
  tokenizer, _ = trained
  text = "".join(corpora.python_docs("test"))
  assert len(tokenizer.encode(text)) < 0.8 * len(text.encode())


def test_words_are_separated_by_white_space(trained):
  tokenizer, _ = trained
  ids = tokenizer.encode(_TEXT)
  words = tokenizer.words(ids)
  texts = [
    tokenizer.decode(ids[words == i]).strip() for i in range(words.max() + 1)
  ]
  assert texts == _TEXT.split()


def test_training_is_reproducible(script, trained, tmp_path):
  (tmp_path / "a.txt").write_text("\n".join(corpora.python_docs("train")))
  outs = []
  for name in ("one", "two.model"):
    done = script(
      "data.train_sentencepiece",
      f"--input={tmp_path}/*.txt",
      "--vocab_size=420",
      f"--out={tmp_path / name}",
    )
    assert done.status == 0, done
    path = tmp_path / f"{name.removesuffix('.model')}.model"
    outs.append(path.read_bytes())
  assert outs[0] == outs[1]
  assert tokenizers.make_tokenizer(str(path)).vocab_size == 420


def test_long_lines_are_split_and_blank_ones_left_out():
  from scripts.data import train_sentencepiece

  lines = train_sentencepiece.lines(["a b\n\n  \n\tc\x0bd", "é" * 2500])
  assert list(lines) == ["a b", "c", "d", "é" * 1000, "é" * 1000, "é" * 500]


@pytest.mark.parametrize(
  ("arguments", "parts"),
  [
    ([], ["either --input=FILES or --python_docs"]),
    (["--python_docs", "--input=x"], ["either --input=FILES or --python_docs"]),
    (["--python_docs"], ["--out is missing"]),
    (["--python_docs", "--out=OUT", "x"], ["unexpected argument 'x'"]),
    (["--input=OUT/none", "--out=OUT"], ["no text file"]),
    (["--python_docs", "--out=OUT", "--vocab_size=6"], ["vocab_size"]),
    (
      ["--python_docs", "--out=OUT", "--vocab_size=100"],
      ["--vocab_size=100: its bytes and characters alone take"],
    ),
    (
      ["--python_docs", "--out=OUT", "--vocab_size=32000"],
      ["--vocab_size=32000: the text gives", "at most"],
    ),
    # Before any text is read.
    (["--input=OUT/none", "--out=FILE/x"], ["can't be written", "--out"]),
  ],
)
def test_invalid_flags_are_refused(refused, tmp_path, arguments, parts):
  (tmp_path / "file").touch()
  places = {"OUT": tmp_path / "out", "FILE": tmp_path / "file"}
  for name, place in places.items():
    arguments = [a.replace(name, str(place)) for a in arguments]
  refused("data.train_sentencepiece", *arguments, parts=parts)
  assert not list(tmp_path.glob("*.model"))


def test_the_largest_size_in_the_error_message_works():
  from scripts.data import train_sentencepiece

  train = lambda size: train_sentencepiece.train(iter(["some words"]), size)
  with pytest.raises(UserError, match="the text gives") as error:
    train(1000)
  largest = int(str(error.value).split("gives ")[1].split()[0])
  assert train(largest)
  with pytest.raises(UserError):
    train(largest + 1)


def test_no_text_and_no_package_are_explained(monkeypatch):
  from scripts.data import train_sentencepiece

  with pytest.raises(UserError, match="no text"):
    train_sentencepiece.train(iter([]), 400)
  monkeypatch.setitem(sys.modules, "sentencepiece", None)
  with pytest.raises(UserError, match=r"perceiver_jax\[text\]"):
    train_sentencepiece.train(iter(["a"]), 400)

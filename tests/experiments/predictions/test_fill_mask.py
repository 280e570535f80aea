import re

import jax
import numpy as np
import pytest
import tiny_weights
from jax import numpy as jnp

from perceiver_jax import weights
from perceiver_jax.data.text import byte_tokenizer, tokenizers

pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture
def fill(call, weight_file):
  """Returns a function that calls fill-mask on texts."""
  flag = f"--weights={weight_file('language')}"
  return lambda *arguments: call("predict", "fill-mask", flag, *arguments)


def expected(file, ids):
  """Computes the probabilities for a text that is padded as in training."""
  loaded = weights.load(file)
  rows, input_mask = byte_tokenizer.pad([ids], tiny_weights.LENGTH)
  mask = jnp.asarray(input_mask)
  logits = tiny_weights.outputs(loaded, rows, input_mask=mask).logits[0]
  return np.asarray(jax.nn.softmax(logits))[: len(ids)]


def report(file, ids, top=5):
  """Returns the lines that should be printed below the text."""
  probabilities = expected(file, ids)
  filled, lines = ids.copy(), []
  for place in np.flatnonzero(ids == byte_tokenizer.MASK):
    best = np.argsort(-probabilities[place])[:top]
    filled[place] = best[0]
    predictions = [
      f"{byte_tokenizer.display([i])!r} {probabilities[place, i]:.1%}"
      for i in best
    ]
    lines.append(f"  token {place}: {'  '.join(predictions)}")
  return [f"  {byte_tokenizer.display(filled)}", *lines]


def test_each_mask_is_replaced_by_a_byte(fill, weight_file):
  done = fill("a [MASK][MASK]b", "[MASK]")
  assert (done.status, done.err) == (0, "")
  file = weight_file("language")
  mask = [byte_tokenizer.MASK]
  first = np.concatenate([byte_tokenizer.encode("a "), mask, mask, [98 + 6]])
  assert done.out.splitlines() == [
    "a [MASK][MASK]b",
    *report(file, first),
    "[MASK]",
    *report(file, np.array(mask)),
  ]


def test_the_byte_bert_can_fill_masks(call, weight_file):
  flag = f"--weights={weight_file('byte_bert')}"
  done = call("predict", "fill-mask", flag, "a[MASK]")
  assert (done.status, done.err) == (0, "")
  ids = np.append(byte_tokenizer.encode("a"), byte_tokenizer.MASK)
  assert done.out.splitlines()[1:] == report(weight_file("byte_bert"), ids)


def test_words_are_masked_byte_by_byte(fill, weight_file):
  done = fill("--mask=ö", "--top=2", "wörld, ö")
  assert done.status == 0, done.err
  ids = byte_tokenizer.mask_words("wörld, ö", "ö")
  assert list(np.flatnonzero(ids == byte_tokenizer.MASK)) == [1, 2, 8, 9]
  want = report(weight_file("language"), ids, top=2)
  assert done.out.splitlines() == ["wörld, ö", *want]


def test_any_token_can_be_printed(fill):
  # Tokens include parts of characters, control codes and special tokens.
  done = fill("--top=262", "x[MASK]")
  assert done.status == 0, done.err
  text, _, predictions = done.out.split("\n", 2)
  assert text == "x[MASK]"
  assert len(re.findall(r"\d%", predictions)) == 262
  assert all(c.isprintable() for c in predictions.strip("\n"))
  assert "'\ufffd'" in predictions
  assert "'[PAD]'" in predictions


def test_texts_longer_than_the_model_reads_are_refused(
  fill, refuses, weight_file
):
  most = tiny_weights.LENGTH - 1
  assert fill("é" * (most // 2) + "e[MASK]").status == 0
  flag = f"--weights={weight_file('language')}"
  parts = ["33 tokens", "takes 32", "shorten"]
  text = "é" * (most // 2 + 1) + "[MASK]"
  refuses("predict", "fill-mask", flag, text, parts=parts)


@pytest.mark.parametrize(
  ("arguments", "parts"),
  [
    ([], ["no text", "[MASK]", "--mask"]),
    (["nothing"], ["'nothing'", "[MASK]", "--mask"]),
    (["[MASK]", "nothing"], ["'nothing'"]),
    (["--mask=x", "nothing"], ["'x' is not in the text 'nothing'"]),
    (["--mask=x", "x [MASK]"], ["[MASK] or --mask, not both"]),
    (["\udce9[MASK]"], ["UTF-8"]),
    (["--mask=x", "\udce9x"], ["UTF-8"]),
  ],
)
def test_bad_texts_are_refused_before_weights_are_read(
  refuses, tmp_path, arguments, parts
):
  flag = f"--weights={tmp_path / 'missing'}"
  done = refuses("predict", "fill-mask", flag, *arguments, parts=parts)
  assert done.out == ""


def test_a_model_of_other_tokens_is_refused(refuses, weight_file):
  flag = f"--weights={weight_file('language', 300)}"
  parts = ["300 tokens", "'bytes' has 262", "--tokenizer", "--weights"]
  refuses("predict", "fill-mask", flag, "[MASK]", parts=parts)


def test_weights_of_another_kind_are_refused(refuses, weight_file):
  flag = f"--weights={weight_file('flow')}"
  parts = ["'flow' decoder", "'masked_lm'"]
  refuses("predict", "fill-mask", flag, "[MASK]", parts=parts)


def test_without_weights_the_error_names_the_download(refuses):
  parts = ["--weights", "https://", "language_perceiver_io_bytes.pickle"]
  refuses("predict", "fill-mask", "[MASK]", parts=parts)


def test_a_model_of_subwords_fills_subwords(call, weight_file, tmp_path):
  sentencepiece = pytest.importorskip("sentencepiece")
  text = tmp_path / "text.txt"
  text.write_text("the fox and the dog run\n" * 50)
  sentencepiece.SentencePieceTrainer.train(
    input=str(text), model_prefix=str(tmp_path / "own"), vocab_size=30,
    hard_vocab_limit=False, minloglevel=2,
  )  # fmt: skip
  tokenizer = tokenizers.make_tokenizer(str(tmp_path / "own.model"))
  file = weight_file("language", tokenizer.vocab_size)
  flags = (f"--weights={file}", f"--tokenizer={tmp_path / 'own.model'}")
  done = call("predict", "fill-mask", *flags, "--mask= fox", "the fox run")
  assert done.status == 0, done.err
  ids = tokenizer.mask_words("the fox run", " fox")
  positions = np.flatnonzero(ids == byte_tokenizer.MASK)
  assert 0 < len(positions) < len(ids)
  _, text, *rest = done.out.splitlines()
  assert len(rest) == len(positions)
  filled = ids.copy()
  filled[positions] = expected(file, ids)[positions].argmax(-1)
  assert text == f"  {tokenizer.display(filled)}"

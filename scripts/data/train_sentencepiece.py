r"""Trains a SentencePiece tokenizer.

  python -m scripts.data.train_sentencepiece --input='books/*.txt.gz' --out=FILE

writes FILE.model, for --config.data.tokenizer=FILE.model
(`configs/masked_lm.py:sentencepiece`). It needs sentencepiece: pip install
'perceiver_jax[text]'. --python_docs instead of --input reads the documentation
that ships with Python, which is enough for a few thousand tokens.

Perceiver IO (section 4.1) uses 32,000 tokens and does not say how they were
trained. This script trains a unigram model without normalizing the text or its
spaces. Characters outside the vocabulary become their UTF-8 bytes, so that
decoding restores any text (except '\u2581', which SentencePiece writes for a
space). The only white space in subwords is spaces, before a word or alone.
"""

import io
import re
from collections.abc import Iterator, Sequence

from absl import flags

from experiments import launch
from experiments.predictions import outputs
from perceiver_jax import files
from perceiver_jax.data.text import byte_tokenizer, corpora
from perceiver_jax.errors import UserError

_INPUT = flags.DEFINE_string(
  "input", "", "Folder or pattern of .txt or .jsonl files, also .gz or .zst."
)
_PYTHON_DOCS = flags.DEFINE_bool(
  "python_docs", False, "Read Python's own documentation."
)
_VOCAB_SIZE = flags.DEFINE_integer(
  "vocab_size",
  32_000,
  "Number of tokens, of which"
  f" {len(byte_tokenizer.SPECIAL_TOKENS)} are special.",
  lower_bound=len(byte_tokenizer.SPECIAL_TOKENS) + 1,
)
_OUT = flags.DEFINE_string(
  "out", "", "File to write, without the suffix .model."
)

# All white space except the space.
_BREAK = re.compile(r"[^\S ]+")
# Maximum characters per line; SentencePiece skips lines of over 4,192 bytes.
_MAX_LENGTH = 1000
# Maximum number of lines in memory, which SentencePiece samples at random.
_MAX_LINES = 5_000_000


def main(argv: Sequence[str]) -> None:
  """Trains a model and writes it."""
  launch.no_arguments(argv)
  if bool(_INPUT.value) == _PYTHON_DOCS.value:
    raise UserError("give either --input=FILES or --python_docs")
  if not _OUT.value:
    raise UserError("--out is missing; give the file to write")
  path = files.as_path(
    _OUT.value.removesuffix(".model") + ".model"
  ).expanduser()
  outputs.check_writable(path, "another --out")
  documents = (
    corpora.make_documents("python_docs", split="train")
    if _PYTHON_DOCS.value
    else corpora.make_documents(
      "files", split="train", train=_INPUT.value, eval=""
    )
  )
  model = train(lines(documents), _VOCAB_SIZE.value)
  with outputs.writing(path, "another --out"):
    files.write_bytes(path, model)
  print(f"{_VOCAB_SIZE.value:,} tokens written to {path}")


def lines(documents: corpora.Documents) -> Iterator[str]:
  """Yields the lines of documents, with long ones split.

  Args:
    documents: The texts.

  Yields:
    Strings of 1 to 1,000 characters, not all of them spaces.
  """
  for i in range(len(documents)):
    for line in _BREAK.split(documents[i]):
      for start in range(0, len(line), _MAX_LENGTH):
        part = line[start : start + _MAX_LENGTH]
        if part.strip():
          yield part


def train(texts: Iterator[str], vocab_size: int) -> bytes:
  """Trains a unigram model.

  Args:
    texts: The lines.
    vocab_size: The number of tokens, including the 6 special ones that are not
      in the model.

  Returns:
    The contents of the .model file.

  Raises:
    UserError: The package is missing, or the text is empty, too short or too
      varied for so many tokens.
  """
  try:
    import sentencepiece
  except ImportError as error:
    raise UserError(
      "SentencePiece is not installed: pip install 'perceiver_jax[text]'"
    ) from error
  model = io.BytesIO()
  sentencepiece.set_random_generator_seed(0)
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=texts,
      model_writer=model,
      model_type="unigram",
      vocab_size=vocab_size - len(byte_tokenizer.SPECIAL_TOKENS),
      # The tokenizer adds its own special tokens; this one is required.
      unk_id=0,
      bos_id=-1,
      eos_id=-1,
      pad_id=-1,
      byte_fallback=True,
      normalization_rule_name="identity",
      remove_extra_whitespaces=False,
      allow_whitespace_only_pieces=True,
      input_sentence_size=_MAX_LINES,
      minloglevel=1,
    )
  except RuntimeError as error:
    raise UserError(
      f"no model with --vocab_size={vocab_size}: {_reason(str(error))}"
    ) from error
  return model.getvalue()


def _reason(message: str) -> str:
  """Rephrases SentencePiece's message in terms of this script's flags."""
  special = len(byte_tokenizer.SPECIAL_TOKENS)
  if maximum := re.search(r"too high .*<= (\d+)", message):
    limit = int(maximum[1]) + special
    return f"the text gives {limit} at most; read more of it"
  if minimum := re.search(r"smaller than required_chars.* vs (\d+)", message):
    return f"its bytes and characters alone take {int(minimum[1]) + special}"
  return message.rsplit("] ", 1)[-1].strip() or "there is no text"


if __name__ == "__main__":
  launch.run(main)

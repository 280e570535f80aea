"""Documents for language modeling: Python's own, text files, or from TFDS."""

import gzip
import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from perceiver_jax.checks import check_choice
from perceiver_jax.data.core import splits
from perceiver_jax.data.core import tfds as tfds_sources
from perceiver_jax.data.core.source import make_named
from perceiver_jax.data.text import utf8
from perceiver_jax.data.text.python_docs import SPLITS, python_docs
from perceiver_jax.errors import UserError
from perceiver_jax.files import local_matches, open_regular, replacing

KINDS = ("line", "paragraph", "file")
_SUFFIXES = (".txt", ".jsonl")
_COMPRESSED = (".gz", ".zst")
# Every hundredth document is held out.
_STRIDE = 100
# The byte order mark that some editors put before UTF-8 text.
_BYTE_ORDER_MARK = "\ufeff"
# Bytes of a compressed file to read at a time.
_BLOCK = 1 << 18


class Documents(Protocol):
  """Protocol of documents that can be fetched in any order.

  Attributes:
    in_memory: whether documents are fetched without reading files.
  """

  in_memory: bool

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> str: ...


class Files:
  """Documents of text or JSONL files, read by their byte offsets.

  Files are opened for every document, so that threads and worker processes
  share nothing.

  Args:
    paths: paths of the files, which may be compressed.
    kind: unit of a text file that is a document, one of `KINDS`.
    field: field of each JSON object that has the text.

  Raises:
    UserError: a file is damaged, not in UTF-8, or cannot be read.
  """

  in_memory = False

  def __init__(self, paths: Sequence[str], kind: str, field: str):
    self._names = tuple(paths)
    self._paths = tuple(map(_plain, paths))
    self._kind = kind
    self._field = field
    # File, first byte and end of each document, int64 [N, 3].
    numbers = itertools.chain.from_iterable(self._all_spans())
    self._spans = np.fromiter(numbers, np.int64).reshape(-1, 3)

  def __len__(self) -> int:
    return len(self._spans)

  def __getitem__(self, index: int) -> str:
    number, start, stop = map(int, self._spans[index])
    try:
      with open_regular(self._paths[number]) as file:
        file.seek(start)
        data = file.read(stop - start)
        text = utf8.decode(data, self._names[number], start)
        text = text.removeprefix(_BYTE_ORDER_MARK) if start == 0 else text
    except OSError as error:
      raise _unreadable(self._paths[number], error) from error
    if self._paths[number].lower().endswith(".jsonl"):
      return self._text_of_json(text, number, start)
    return text if self._kind == "file" else text.strip("\r\n")

  def only(self, chosen: np.ndarray) -> "Files":
    """Returns a subset of the documents, by a mask bool [len]."""
    part = object.__new__(Files)
    part.__dict__ = {**self.__dict__, "_spans": self._spans[chosen]}
    return part

  def _all_spans(self) -> Iterator[tuple[int, int, int]]:
    for number, path in enumerate(self._paths):
      kind = "line" if path.lower().endswith(".jsonl") else self._kind
      try:
        for start, stop in _spans(path, self._names[number], kind):
          yield number, start, stop
      except OSError as error:
        raise _unreadable(path, error) from error

  def _text_of_json(self, line: str, number: int, start: int) -> str:
    try:
      text = json.loads(line)[self._field]
      if not isinstance(text, str):
        raise TypeError("not a string")
    # Deep nesting raises a RecursionError.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
      where = _line_number(self._paths[number], start)
      raise UserError(
        f"{self._names[number]} line {where} is not a JSON object whose field"
        f" {self._field!r} is a string; fix the line, or name the field with"
        " config.data.corpora.NAME.arguments.files.field"
      ) from error
    # JSON can escape unpaired surrogates, which UTF-8 cannot encode.
    return text.encode("utf-8", errors="replace").decode("utf-8")


def files(
  train: str,
  split: str,
  eval: str = "",
  documents: str = "line",
  field: str = "text",
) -> Files:
  """Returns documents of .txt or .jsonl files, also .gz or .zst.

  Compressed files are decompressed once, to $XDG_CACHE_HOME (else ~/.cache)
  /perceiver_jax/text.

  Args:
    train: a folder, searched recursively, or a pattern such as 'a/*.txt.gz'.
    split: "train" or "test".
    eval: the same for the held-out files; if empty, every hundredth document
      of `train` is held out, or the last one if there are fewer.
    documents: unit of a .txt file that is a document: "line", "paragraph"
      (separated by empty lines) or "file". Empty ones are skipped.
    field: field that has the text, in the objects of a .jsonl file. Empty lines
      are skipped, but not empty texts.

  Raises:
    UserError: there is no file, one is damaged, none has text, or an argument
      is unknown.
  """
  check_choice(split, SPLITS, "split", "text files")
  check_choice(documents, KINDS, "documents", "text files")
  if split == "test" and eval:
    return _found(eval, "eval", documents, field)
  training = _found(train, "train", documents, field)
  if eval:
    return training
  held_out = np.zeros(len(training), bool)
  held_out[_STRIDE - 1 :: _STRIDE] = True
  held_out[-1:] |= not held_out.any()
  return training.only(
    splits.part(
      held_out,
      split,
      "document",
      "give more, or files for evaluation in"
      " config.data.corpora.NAME.arguments.files.eval",
    )
  )


SOURCES: dict[str, Callable[..., Documents]] = {
  "python_docs": python_docs,
  "files": files,
  "tfds": tfds_sources.texts,
}


def make_documents(name: str, /, **kwargs: Any) -> Documents:
  """Makes the documents of the source called `name`.

  Args:
    name: a key of `SOURCES`.
    **kwargs: arguments of the source.

  Raises:
    UserError: the name or an argument is unknown, or there is no document.
  """
  return make_named(SOURCES, name, "texts", kwargs)


def _found(pattern: str, which: str, documents: str, field: str) -> Files:
  """Returns the documents of a folder or pattern; `which` is for errors."""
  found = Files(_matches(pattern, which), documents, field)
  if not len(found):
    raise UserError(
      f"empty dataset: source 'files' finds no text in {pattern!r}; give files"
      f" with text in config.data.corpora.NAME.arguments.files.{which}"
    )
  return found


def _matches(pattern: str, which: str) -> list[str]:
  """Returns the files of a folder or pattern, sorted; `which` is for errors."""
  known = [path for path in local_matches(pattern) if _is_known(path)]
  if not known:
    raise _no_files(pattern, which)
  return known


def _no_files(pattern: str, which: str) -> UserError:
  return UserError(
    f"no text file {pattern!r}; give a folder or a pattern of .txt or .jsonl"
    " files, also .gz or .zst, in"
    f" config.data.corpora.NAME.arguments.files.{which}"
  )


def _is_known(path: str) -> bool:
  stem, suffix = os.path.splitext(path.lower())
  inner = stem if suffix in _COMPRESSED else path.lower()
  return inner.endswith(_SUFFIXES)


def _unreadable(path: str, error: OSError) -> UserError:
  return UserError(
    f"{path} cannot be read: {error.strerror}; fix the file, or leave it out"
  )


def _line_number(path: str, start: int) -> int:
  """Returns the number, from 1, of the line that starts at a byte."""
  with open_regular(path) as file:
    blocks = iter(lambda: file.read(min(_BLOCK, start - file.tell())), b"")
    return 1 + sum(block.count(b"\n") for block in blocks)


def _runs(path: str, name: str, joined: bool) -> Iterator[tuple[int, int]]:
  """Yields byte ranges of nonblank lines; adjacent ones as one if `joined`."""
  position = start = 0
  with open_regular(path) as file:
    for line in file:
      # Not only when the document is read, perhaps after hours of training.
      utf8.decode(line, name, position)
      blank = not line.strip()
      if start < position and (blank or not joined):
        yield start, position
        start = position
      position += len(line)
      if blank:
        start = position
  if start < position:
    yield start, position


def _spans(path: str, name: str, kind: str) -> Iterator[tuple[int, int]]:
  """Returns the byte range of every document that is not blank."""
  runs = _runs(path, name, joined=kind != "line")
  if kind != "file":
    return runs
  # The list reads, and so checks, the whole file.
  return iter([(0, os.path.getsize(path))] if list(runs) else [])


def _plain(path: str) -> str:
  """Returns the path of a file's text, decompressing it if needed."""
  stem, suffix = os.path.splitext(path)
  if suffix.lower() not in _COMPRESSED:
    return path
  status = os.stat(path)
  key = f"{os.path.abspath(path)} {status.st_size} {status.st_mtime_ns}"
  name = hashlib.sha256(key.encode()).hexdigest()[:16]
  home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  folder = Path(home).expanduser() / "perceiver_jax" / "text"
  target = folder / f"{name}-{os.path.basename(stem)}"
  if not target.exists():
    _decompress(path, target)
  return str(target)


def _decompress(path: str, target: Path) -> None:
  """Decompresses a file; on errors, leaves nothing at `target`."""
  blocks = _gzip_blocks if path.lower().endswith(".gz") else _zstd_blocks
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
      open_regular(path) as source,
      replacing(target) as partial,
      open(partial, "wb") as sink,
    ):
      sink.writelines(blocks(source))
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(
      f"{path} cannot be decompressed to {target.parent}: {error}; download"
      " the file again or fix the folder"
    ) from error


def _gzip_blocks(source: BinaryIO) -> Iterator[bytes]:
  with gzip.open(source) as file:
    yield from iter(lambda: file.read(_BLOCK), b"")


def _zstd_blocks(source: BinaryIO) -> Iterator[bytes]:
  """Yields the text of all frames; raises EOFError if a frame is truncated."""
  try:
    import zstandard
  except ImportError as error:
    raise UserError(
      f"{source.name} needs the package zstandard: pip install"
      " 'perceiver_jax[text]'"
    ) from error
  # `zstd --long=31` needs this; the default limit is 128 MiB.
  decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
  frame, rest = decompressor.decompressobj(), source.read(_BLOCK)
  try:
    while rest:
      yield frame.decompress(rest)
      rest = frame.unused_data or source.read(_BLOCK)
      if frame.eof and rest:
        frame = decompressor.decompressobj()
  except zstandard.ZstdError as error:
    raise EOFError(str(error)) from error
  if not frame.eof:
    raise EOFError("it ends too early")

"""Text that ships with Python: its documentation and its docstrings."""

import ast
import functools
import itertools
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from perceiver_jax.data.core.in_memory import InMemory
from perceiver_jax.data.core.source import check_choice

SPLITS = ("train", "test")
# Characters of a document, unless its topic or module ends.
_DOCUMENT_SIZE = 1500
# One of so many documents is held out.
_STRIDE = 10
# Folders of the standard library without docstrings to learn from, and what
# was installed.
_LEFT_OUT = {
  "dist-packages",
  "encodings",
  "idlelib",
  "lib2to3",
  "site-packages",
  "test",
  "tests",
}


def python_docs(split: str, docstrings: bool = False) -> InMemory:
  """The documentation of Python itself, which ships with it.

  About 465 kB in Python 3.11; it differs a little from version to version.
  Texts repeat each other: a paragraph is taken where it comes first, which
  leaves 373 kB, and no held-out one is trained on. Every tenth document, of
  some 1,500 characters, is held out.

  Args:
    split: "train" or "test".
    docstrings: whether those of the standard library follow, 1.9 MB in all;
      reading them takes seconds.

  Raises:
    UserError: there is no such split.
  """
  check_choice(split, SPLITS, "split", "Python's documentation")
  texts = _topics()
  if docstrings:
    texts = itertools.chain(texts, _docstrings())
  found = list(_documents(texts))
  test = slice(_STRIDE - 1, None, _STRIDE)
  held_out = found[test]
  del found[test]
  return InMemory(held_out if split == "test" else found)


def _documents(texts: Iterator[str]) -> Iterator[str]:
  """Pieces of the texts, without paragraphs that came before."""
  seen = set()
  for text in texts:
    document = ""
    for paragraph in text.split("\n\n"):
      if paragraph.strip() in seen:
        continue
      seen.add(paragraph.strip())
      document = f"{document}\n\n{paragraph}" if document else paragraph
      if len(document) >= _DOCUMENT_SIZE:
        yield document
        document = ""
    if document.strip():
      yield document


def _topics() -> Iterator[str]:
  # Imported here: half a megabyte that others need not read.
  from pydoc_data import topics

  for name in sorted(topics.topics):
    yield topics.topics[name]


@functools.cache
def _docstrings() -> tuple[str, ...]:
  """Those of each module of the standard library, as one text."""
  root = Path(sysconfig.get_path("stdlib"))
  paths = sorted(
    path
    for path in root.rglob("*.py")
    if not _LEFT_OUT & set(path.relative_to(root).parts)
  )
  return tuple(filter(None, map(docstrings_of, paths)))


def docstrings_of(path: Path) -> str:
  """Docstrings of a Python file, an empty line between; none if it's broken."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # About its code, which isn't run.
      tree = ast.parse(path.read_bytes())
  except (SyntaxError, ValueError):
    return ""
  kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
  found = (
    ast.get_docstring(node)
    for node in ast.walk(tree)
    if isinstance(node, kinds)
  )
  text = "\n\n".join(filter(None, found))
  # Escapes can make half a surrogate pair, which no UTF-8 can hold.
  return text.encode("utf-8", "replace").decode("utf-8")

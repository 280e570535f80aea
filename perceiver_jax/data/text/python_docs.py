"""Text that ships with Python: its documentation and its docstrings."""

import ast
import functools
import itertools
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from perceiver_jax.checks import check_choice
from perceiver_jax.data.core.in_memory import InMemory

SPLITS = ("train", "test")
# Minimum characters of a document, unless its topic or module ends.
_DOCUMENT_SIZE = 1500
# Every tenth document is held out.
_STRIDE = 10
# Folders without useful docstrings, and installed packages.
_EXCLUDED = {
  "dist-packages",
  "encodings",
  "idlelib",
  "lib2to3",
  "site-packages",
  "test",
  "tests",
}


def python_docs(split: str, docstrings: bool = False) -> InMemory:
  """Returns documents of the documentation that ships with Python.

  It has about 465 kB in Python 3.11 and differs slightly between versions.
  Repeated paragraphs are used only once, which leaves 373 kB, so that no
  held-out paragraph is trained on. Every tenth document is held out; a document
  has about 1,500 characters.

  Args:
    split: "train" or "test".
    docstrings: whether to add the docstrings of the standard library, 1.9 MB in
      all; reading them takes seconds.

  Raises:
    UserError: there is no such split.
  """
  check_choice(split, SPLITS, "split", "Python's documentation")
  texts = _topics()
  if docstrings:
    texts = itertools.chain(texts, _docstrings())
  documents = list(_documents(texts))
  test = slice(_STRIDE - 1, None, _STRIDE)
  held_out = documents[test]
  del documents[test]
  return InMemory(held_out if split == "test" else documents)


def _documents(texts: Iterator[str]) -> Iterator[str]:
  """Splits texts into documents, without repeated paragraphs."""
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
  # Imported here because it loads half a megabyte.
  from pydoc_data import topics

  for name in sorted(topics.topics):
    yield topics.topics[name]


@functools.cache
def _docstrings() -> tuple[str, ...]:
  """Returns the docstrings of each module of the standard library, joined."""
  root = Path(sysconfig.get_path("stdlib"))
  paths = sorted(
    path
    for path in root.rglob("*.py")
    if not _EXCLUDED & set(path.relative_to(root).parts)
  )
  return tuple(filter(None, map(docstrings_of, paths)))


def docstrings_of(path: Path) -> str:
  """Returns the docstrings of a Python file, or "" if it cannot be parsed."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # The code is only parsed.
      tree = ast.parse(path.read_bytes())
  except (SyntaxError, ValueError):
    return ""
  kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
  docstrings = (
    ast.get_docstring(node)
    for node in ast.walk(tree)
    if isinstance(node, kinds)
  )
  text = "\n\n".join(filter(None, docstrings))
  # Escapes can make unpaired surrogates, which UTF-8 cannot encode.
  return text.encode("utf-8", "replace").decode("utf-8")

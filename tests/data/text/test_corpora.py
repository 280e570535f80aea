import builtins
import gzip
import json
import pickle
import subprocess
import sys
from concurrent import futures

import pytest
import tiny_tfds
import zstandard

from perceiver_jax.data.text import corpora, python_docs
from perceiver_jax.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """Returns the folder of decompressed files."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  return tmp_path / "cache/perceiver_jax/text"


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "texts").mkdir()
  return tmp_path / "texts"


def _zstd(data):
  return zstandard.ZstdCompressor().compress(data)


_PACK = {"": bytes, ".gz": gzip.compress, ".zst": _zstd}
_compressions = pytest.mark.parametrize("suffix", _PACK)


def _all(pattern, **kwargs):
  """Returns all documents of a pattern, which is held out as a whole."""
  source = corpora.files("", "test", eval=str(pattern), **kwargs)
  return [source[i] for i in range(len(source))]


def _write(path, texts):
  path.write_text("".join(f"{text}\n" for text in texts))
  return str(path)


# python_docs


def test_python_docs_splits_are_disjoint_and_reproducible():
  train = corpora.python_docs("train")
  test = corpora.python_docs("test")
  assert train.in_memory
  assert list(train) == list(corpora.python_docs("train"))
  assert not _paragraphs(train) & _paragraphs(test)
  assert len(test) == (len(train) + len(test)) // 10
  assert sum(map(len, train)) > 300_000
  assert all(text.strip() for text in [*train, *test])


def _paragraphs(documents):
  return {p.strip() for text in documents for p in text.split("\n\n")}


def test_python_docs_documents_are_whole_paragraphs(monkeypatch):
  from pydoc_data import topics

  long, short = "a" * 900, "b" * 700
  fake = {
    "second": f"{long}\n\n{short}\n\nrest",
    "first": "\n\n",
    "third": "\n\n".join([short, *(f"{i}" * 1500 for i in range(9))]),
  }
  monkeypatch.setattr(topics, "topics", fake)
  train = list(corpora.python_docs("train"))
  numbered = [f"{i}" * 1500 for i in range(9)]
  held_out = numbered.pop(7)
  # Paragraphs that repeat an earlier topic are left out.
  assert train == [f"{long}\n\n{short}", "rest", *numbered]
  assert list(corpora.python_docs("test")) == [held_out]


def test_docstrings_are_added_to_the_documentation(monkeypatch, tmp_path):
  long = ("of a function " * 100).strip()
  module = f'''"""Of a module."""\ndef f():\n  """{long}"""\n'''
  (tmp_path / "a.py").write_text(module)
  (tmp_path / "b.py").write_text('"""Of a module."""\nx = "no docstring"')
  (tmp_path / "broken.py").write_text("def")
  (tmp_path / "test").mkdir()
  (tmp_path / "test" / "c.py").write_text('"""Of a test."""')
  monkeypatch.setattr(
    python_docs.sysconfig, "get_path", lambda name: str(tmp_path)
  )
  python_docs._docstrings.cache_clear()
  splits = [corpora.python_docs(s, docstrings=True) for s in ("train", "test")]
  python_docs._docstrings.cache_clear()
  plain = [corpora.python_docs(s) for s in ("train", "test")]
  assert sum(map(len, splits)) == sum(map(len, plain)) + 1
  added = set().union(*splits) - set().union(*plain)
  assert added == {f"Of a module.\n\n{long}"}


def test_a_lone_surrogate_in_a_docstring_is_replaced(tmp_path):
  path = tmp_path / "a.py"
  path.write_text('"""Half \\ud800 of one."""')
  assert python_docs.docstrings_of(path) == "Half ? of one."


def test_python_docs_refuses_an_unknown_split():
  with pytest.raises(UserError, match="unknown split 'validation'"):
    corpora.python_docs("validation")


# files


@_compressions
@pytest.mark.parametrize(
  ("documents", "expected"),
  [
    ("line", ["één", "  two", "three"]),
    ("paragraph", ["één\n  two", "three"]),
    ("file", ["één\n  two\n\n \t\r\n\nthree"]),
  ],
)
def test_text_files_are_split_into_documents(
  folder, suffix, documents, expected
):
  data = "één\n  two\n\n \t\r\n\nthree".encode()
  (folder / f"a.txt{suffix}").write_bytes(_PACK[suffix](data))
  assert _all(folder, documents=documents) == expected


@_compressions
def test_json_lines_have_one_document_per_line(folder, suffix):
  texts = ["two\nlines\n", "\u20ac \x00", ""]
  rows = [json.dumps({"id": 1, "body": text}) for text in texts]
  data = ("\n\n".join(rows) + "\n").encode()
  (folder / f"a.jsonl{suffix}").write_bytes(_PACK[suffix](data))
  # `documents` applies to text files only.
  assert _all(folder, field="body", documents="file") == texts


def test_all_files_of_a_folder_are_read_in_the_order_of_their_names(folder):
  (folder / "b").mkdir()
  _write(folder / "b/x.txt", ["three"])
  _write(folder / "a.txt", ["one", "two"])
  _write(folder / "c.md", ["of an unknown type"])
  (folder / "d.jsonl").write_text('{"text": "four"}')
  assert _all(folder) == ["one", "two", "three", "four"]
  assert _all(folder / "*.txt") == ["one", "two"]


def test_files_expand_the_home_directory(folder, monkeypatch):
  monkeypatch.setenv("HOME", str(folder.parent))
  _write(folder / "a.txt", ["one"])
  assert _all("~/texts/*.txt") == ["one"]


@pytest.mark.parametrize(
  ("count", "held_out"),
  [(2, [1]), (99, [98]), (100, [99]), (250, [99, 199])],
)
def test_files_hold_out_every_hundredth_document(folder, count, held_out):
  path = _write(folder / "a.txt", map(str, range(count)))
  train = list(map(int, corpora.files(path, "train")))
  test = list(map(int, corpora.files(path, "test")))
  assert test == held_out
  assert train == [i for i in range(count) if i not in held_out]


def test_a_single_document_is_only_held_out(folder):
  path = _write(folder / "a.txt", ["one"])
  assert list(corpora.files(path, "test")) == ["one"]
  with pytest.raises(UserError, match=r"is 1 document, and it .*files\.eval"):
    corpora.files(path, "train")


def test_held_out_files_can_be_given(folder):
  train = _write(folder / "a.txt", map(str, range(200)))
  test = _write(folder / "b.txt", ["held out"])
  source = corpora.files(train, "train", eval=test)
  assert list(map(int, source)) == list(range(200))
  assert list(corpora.files(train, "test", eval=test)) == ["held out"]


def test_files_keep_nul_bytes_and_long_lines(folder):
  long = b"x" * 10_000_000
  lines = [b"\n", b"nul \x00\x00", b"   ", long, b"", b"dos\r"]
  (folder / "a.txt").write_bytes(b"\n".join(lines))
  nul, long_line, dos = _all(folder)
  assert nul == "nul \x00\x00"
  assert long_line == long.decode()
  assert dos == "dos"


@pytest.mark.parametrize("documents", corpora.KINDS)
def test_a_file_in_another_encoding_is_named(folder, documents):
  data = "één\n\n".encode() + b"caf\xe9\n"
  (folder / "a.txt.gz").write_bytes(gzip.compress(data))
  with pytest.raises(UserError, match=r"a\.txt\.gz is not .*byte 10 is 0xe9"):
    corpora.files(str(folder), "train", documents=documents)


def test_a_file_that_is_changed_to_another_encoding_is_named(folder):
  path = folder / "a.txt"
  source = corpora.files(_write(path, ["one", "two"]), "train")
  path.write_bytes(b"on\xe9\ntwo\n")
  with pytest.raises(UserError, match=r"a\.txt is not .*byte 2 is 0xe9"):
    source[0]


def test_files_replace_a_lone_surrogate(folder):
  (folder / "a.jsonl").write_text(r'{"text": "a\ud83db"}')
  assert _all(folder) == ["a?b"]


def test_documents_are_read_on_access(folder):
  path = folder / "a.txt"
  source = corpora.files(_write(path, ["one", "two", "six"]), "train")
  assert not source.in_memory
  _write(path, ["ten", "two", "six"])
  assert source[0] == "ten"
  assert source[-1] == "two"
  with pytest.raises(IndexError):
    source[2]
  path.unlink()
  with pytest.raises(UserError, match=r"a\.txt cannot be read: No such file"):
    source[0]


def test_files_can_be_pickled_and_read_by_threads(folder):
  texts = [f"{i} " * (i % 50 + 1) for i in range(900)]
  (folder / "a.txt.gz").write_bytes(gzip.compress("\n".join(texts).encode()))
  source = corpora.files("", "test", eval=str(folder))
  copy = pickle.loads(pickle.dumps(source))
  with futures.ThreadPoolExecutor(8) as pool:
    assert list(pool.map(copy.__getitem__, range(900))) == texts


@pytest.mark.parametrize(
  "line",
  ["{", "[1]", '"text"', '{"other": ""}', '{"text": 3}', "[" * 100_000],
)
def test_a_malformed_json_line_is_named(folder, line):
  data = f'\n{{"text": "good"}}\n\n{line}\n'.encode()
  (folder / "bad.jsonl.gz").write_bytes(gzip.compress(data))
  source = corpora.files("", "test", eval=str(folder))
  assert source[0] == "good"
  with pytest.raises(UserError, match=r"texts/bad\.jsonl\.gz line 4 .*'text'"):
    source[1]


def test_byte_order_marks_and_capital_suffixes_are_accepted(folder):
  lines = [b'\xef\xbb\xbf{"text": "a"}', b'{"text": "\xef\xbb\xbfb"}']
  (folder / "a.JSONL.GZ").write_bytes(gzip.compress(b"\n".join(lines)))
  (folder / "b.TXT").write_bytes(b"\xef\xbb\xbfc\n")
  assert _all(folder) == ["a", "\ufeffb", "c"]


# Compressed files


def test_compressed_files_are_decompressed_once(folder, cache):
  path = folder / "a.txt.gz"
  path.write_bytes(gzip.compress(b"one\n"))
  assert _all(path) == ["one"]
  (plain,) = cache.iterdir()
  plain.write_text("from the cache\n")
  assert _all(path) == ["from the cache"]
  path.write_bytes(gzip.compress(b"another\n"))
  assert _all(path) == ["another"]


def test_zstd_files_may_have_several_frames_and_blocks(folder):
  lines = [str(i) * 7 for i in range(300_000)]
  half = len(lines) // 2
  frames = [
    _zstd(("\n".join(p) + "\n").encode()) for p in (lines[:half], lines[half:])
  ]
  assert len(frames[0]) > corpora._BLOCK
  (folder / "a.txt.zst").write_bytes(b"".join(frames))
  source = corpora.files("", "test", eval=str(folder))
  assert len(source) == len(lines)
  assert [source[i] for i in (0, half, -1)] == [
    lines[0],
    lines[half],
    lines[-1],
  ]


def _noise(count):
  return b"\n".join(str(i * i).encode() for i in range(count))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "other", "second"])
def test_a_damaged_compressed_file_is_named_and_not_cached(
  folder, cache, suffix, damage
):
  good = _PACK[suffix](_noise(20_000))
  middle = len(good) // 2
  bad = {
    "truncated": good[:middle],
    "changed": good[:middle] + b"\x00" * 500 + good[middle + 500 :],
    "other": b"this was never compressed",
    "second": good + good[:middle],
  }[damage]
  (folder / f"bad.txt{suffix}").write_bytes(bad)
  with pytest.raises(UserError, match=rf"bad\.txt{suffix} cannot be decomp"):
    corpora.files(str(folder), "train")
  assert list(cache.iterdir()) == []


def test_zstd_needs_its_package(folder, monkeypatch):
  (folder / "a.txt.zst").write_bytes(_zstd(b"one"))
  real = builtins.__import__

  def refuse(name, *args, **kwargs):
    if name == "zstandard":
      raise ImportError(name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", refuse)
  with pytest.raises(UserError, match=r"pip install 'perceiver_jax\[text\]'"):
    corpora.files(str(folder), "train")


# tfds


@pytest.fixture
def prepared(tmp_path):
  """Returns a directory with `prose`, three texts, as prepared by TFDS."""
  from tensorflow_datasets import features as tfds_features

  spec = {"text": tfds_features.Text()}
  texts = ["één\n", "", "three"]
  records = [_record(text.encode()) for text in texts]
  tiny_tfds.prepare(tmp_path / "tfds", "prose", spec, {"train": records})
  return tmp_path / "tfds"


def _record(text):
  from tensorflow_datasets.proto import tf_example_pb2

  example = tf_example_pb2.Example()
  example.features.feature["text"].bytes_list.value.append(text)
  return example.SerializeToString()


def _tfds(directory, **kwargs):
  arguments = {"name": "prose", "split": "train", "data_dir": str(directory)}
  return corpora.make_documents("tfds", **(arguments | kwargs))


def test_tfds_reads_texts(prepared):
  source = _tfds(prepared)
  assert not source.in_memory
  copy = pickle.loads(pickle.dumps(source))
  assert [copy[i] for i in range(len(copy))] == ["één\n", "", "three"]
  assert _tfds(prepared, split="train[2:]")[0] == "three"


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"name": "no_such_data"}, "has no 'no_such_data' in .*check the name"),
    (
      {"name": "lm1b"},
      "'lm1b' split 'train' is not prepared.*scripts.data.prepare",
    ),
    (
      {"name": "wikipedia/20230601.en"},
      "is not prepared.*scripts.data.prepare",
    ),
    ({"split": "test"}, "'prose' split 'test'.*Unknown split"),
  ],
)
def test_tfds_explains_what_is_missing(prepared, arguments, message):
  with pytest.raises(UserError, match=message):
    _tfds(prepared, **arguments)


def test_tfds_names_an_example_that_cannot_be_read(prepared):
  (path,) = prepared.rglob("*array_record*")
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(UserError, match="example 0 of prose cannot be read"):
    _tfds(prepared)[0]


def test_tfds_refuses_a_data_set_without_text(tmp_path):
  spec = tiny_tfds.classification()
  records = [tiny_tfds.record(b"", 0)]
  tiny_tfds.prepare(tmp_path, "tiny", spec, {"train": records})
  with pytest.raises(
    UserError, match="'tiny' has features image, label; 'text'"
  ):
    _tfds(tmp_path, name="tiny")


# make_documents


@pytest.mark.parametrize(
  ("name", "arguments", "message"),
  [
    ("books", {"split": "train"}, "unknown source 'books'.*python_docs, files"),
    (
      "python_docs",
      {},
      "'python_docs' got wrong arguments .*it takes: split, d",
    ),
    ("python_docs", {"split": "train", "size": 3}, "wrong arguments .*'size'"),
    ("files", {"train": "a", "split": "val"}, "unknown split 'val'"),
    (
      "files",
      {"train": "a", "split": "train", "documents": "word"},
      "unknown documents 'word'.*line, paragraph, file",
    ),
    (
      "files",
      {"train": "nowhere/*.txt", "split": "train"},
      r"'nowhere/\*\.txt'.*config\.data\.corpora\.NAME\.arguments\.files\.train",
    ),
    (
      "files",
      {"train": "", "split": "test", "eval": "nowhere"},
      r"'nowhere'.*config\.data\.corpora\.NAME\.arguments\.files\.eval",
    ),
  ],
)
def test_make_documents_explains_wrong_arguments(name, arguments, message):
  with pytest.raises(UserError, match=message):
    corpora.make_documents(name, **arguments)


@pytest.mark.parametrize("documents", corpora.KINDS)
def test_make_documents_refuses_an_empty_data_set(folder, documents):
  (folder / "a.txt").write_bytes(b" \n\n\t\r\n")
  with pytest.raises(UserError, match="empty dataset: source 'files'"):
    corpora.make_documents(
      "files", train=str(folder), split="test", documents=documents
    )


@pytest.mark.parametrize(
  ("leaf", "split"), [("train", "train"), ("eval", "test")]
)
def test_files_without_text_are_named_with_their_leaf(folder, leaf, split):
  paths = {
    name: _write(folder / f"{name}.txt", [] if name == leaf else ["a"])
    for name in ("train", "eval")
  }
  with pytest.raises(UserError, match=rf"{leaf}\.txt'.*NAME.*files\.{leaf}$"):
    corpora.files(**paths, split=split)


def test_make_documents_makes_every_source(folder, prepared):
  path = _write(folder / "a.txt", ["one", "two"])
  source = corpora.make_documents("files", train=path, split="train")
  assert list(source) == ["one"]
  assert corpora.make_documents("python_docs", split="test")[0]
  assert _tfds(prepared)[2] == "three"


def test_text_is_read_without_tensorflow_and_optional_packages(prepared):
  program = (
    "import sys\n"
    "from perceiver_jax.data.text import python_docs, corpora\n"
    "print([m for m in ('tensorflow_datasets', 'zstandard', 'pydoc_data')"
    " if m in sys.modules])\n"
    f"corpora.SOURCES['tfds']('prose', 'train', {str(prepared)!r})[0]\n"
    "print('tensorflow' in sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=False
  )
  assert done.stdout.split("\n")[:2] == ["[]", "False"], done.stderr

"""Tests of GLUE's examples from files and TFDS, and of the tiny tasks."""

import numpy as np
import pytest
import tiny_tfds

from perceiver_jax.data.text import (
  glue_examples,
  glue_tasks,
  python_docs,
  tiny_glue,
)
from perceiver_jax.errors import UserError

# The header and first lines of each task's published train.tsv.
_TRAIN = {
  "cola": "gj04\t1\t\tOne\tmore.\nks08\t0\t*\tNot good.\n",
  "sst2": "sentence\tlabel\ngood \t1\nbad\t0\n",
  "mrpc": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta\tb\n",
  "stsb": (
    "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1"
    "\tsentence2\tscore\n0\tg\tf\t2012\t1\tn\tn\tA plane.\tA jet.\t4.750\n"
  ),
  "qqp": (
    "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n9\t1\t2\tp\tq\t0\n"
  ),
  "mnli": (
    "index\tpromptID\tpairID\tsentence1_binary_parse\tsentence2_binary_parse"
    "\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1"
    "\tgold_label\n0\t1\t2\t(\t)\t(\t)\tp\th\tneutral\tneutral\n"
  ),
  "qnli": "index\tquestion\tsentence\tlabel\n0\tq\ts\tnot_entailment\n",
  "rte": "index\tsentence1\tsentence2\tlabel\n0\tp\th\tentailment\n",
}
_FIRST = {
  "cola": (("One",), 1.0),
  "sst2": (("good ",), 1.0),
  "mrpc": (("a", "b"), 1.0),
  "stsb": (("A plane.", "A jet."), 4.75),
  "qqp": (("p", "q"), 0.0),
  "mnli": (("p", "h"), 1.0),
  "qnli": (("q", "s"), 1.0),
  "rte": (("p", "h"), 0.0),
}


@pytest.fixture
def folder(tmp_path):
  """Returns a function that writes a file: folder("RTE/dev.tsv", text)."""

  def write(name, text):
    path = tmp_path / "glue" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(tmp_path / "glue")

  return write


def _all(source):
  return [source[i] for i in range(len(source))]


def _read(data_dir, task, split="train"):
  return glue_examples.make_examples(
    "files", task=task, split=split, data_dir=data_dir
  )


@pytest.mark.parametrize("task", list(_TRAIN))
def test_the_published_files_of_each_task_are_read(folder, task):
  data_dir = folder(f"{glue_tasks.TASKS[task].folder}/train.tsv", _TRAIN[task])
  example = _read(data_dir, task)[0]
  assert (example["texts"], example["label"]) == _FIRST[task]


def test_the_eight_tasks_of_the_paper_are_tested():
  assert set(glue_tasks.GLUE) <= set(_TRAIN)
  assert len(glue_tasks.GLUE) == 8


@pytest.mark.parametrize(
  ("task", "split", "file", "labeled"),
  [
    ("rte", "validation", "RTE/dev.tsv", True),
    ("mnli", "validation_mismatched", "MNLI/dev_mismatched.tsv", True),
    ("mnli", "test_matched", "MNLI/test_matched.tsv", False),
    ("mnli", "test_matched", "MNLI/test_matched.tsv", True),
    ("ax", "test", "diagnostic/diagnostic.tsv", False),
    ("ax", "test", "AX.tsv", False),
  ],
)
def test_splits_are_read_from_their_files(folder, task, split, file, labeled):
  names = ["index", "sentence1", "sentence2"]
  fields = ["5", "a", "b"]
  if labeled:
    names.append(glue_tasks.TASKS[task].columns[-1])
    fields.append("entailment")
  text = "\t".join(names) + "\n" + "\t".join(fields) + "\n"
  source = _read(folder(file, text), task, split)
  assert source[0]["texts"] == ("a", "b")
  assert source[0]["label"] == (0.0 if labeled else glue_examples.UNKNOWN)
  assert source[0]["number"] == (5 if split.startswith("test") else 0)


def test_examples_of_test_files_have_no_labels(folder):
  data_dir = folder("CoLA/test.tsv", "index\tsentence\n3\tWho?\n1\tYou.\n")
  assert _all(_read(data_dir, "cola", "test")) == [
    {"texts": ("Who?",), "label": -1.0, "number": 3},
    {"texts": ("You.",), "label": -1.0, "number": 1},
  ]


def test_long_texts_quotes_nul_bytes_and_emoji_are_kept(folder):
  big = "x" * 10_000_000
  lines = [
    "sentence\tlabel", "", f"{big}\t1", '"quoted\t0', "\x00\t1", "\t0",
    "🙂 é\t1", "",
  ]  # fmt: skip
  text = "\ufeff" + "\r\n".join(lines)
  source = _read(folder("SST-2/train.tsv", text), "sst2")
  texts = [example["texts"][0] for example in _all(source)]
  assert texts == [big, '"quoted', "\x00", "", "🙂 é"]


def test_an_invalid_byte_is_replaced(folder):
  data_dir = folder("SST-2/train.tsv", b"sentence\tlabel\na\xff\t1\n")
  assert _read(data_dir, "sst2")[0]["texts"] == ("a\ufffd",)


@pytest.mark.parametrize(
  ("name", "text", "message"),
  [
    ("RTE/dev.tsv", "", r"train\.tsv can't be read .*has: dev\.tsv"),
    ("MNLI/dev.tsv", "", r"RTE/train\.tsv can't be read .*has: MNLI"),
    ("RTE/train.tsv", "", "no column 'sentence1'.*nothing"),
    ("RTE/train.tsv", "a\tb\n", "no column 'sentence1'.*'a', 'b'"),
    ("RTE/train.tsv", _TRAIN["rte"] + "1\tp\th\tmaybe\n", "line 3.*'maybe'"),
    ("RTE/train.tsv", _TRAIN["rte"] + "1\tp\n", "1 lines have too few.*line 3"),
    ("RTE/train.tsv", "sentence1\tsentence2\tlabel\n", "empty dataset"),
  ],
)
def test_missing_and_malformed_files_are_explained(folder, name, text, message):
  data_dir = folder(name, text)
  with pytest.raises(UserError, match=message):
    _read(data_dir, "rte")


@pytest.mark.parametrize(
  ("task", "text", "message"),
  [
    ("stsb", _TRAIN["stsb"].replace("4.750", "much"), "'much' is not a score"),
    ("other", "", "unknown task 'other'"),
  ],
)
def test_a_malformed_score_and_an_unknown_task_are_refused(
  folder, task, text, message
):
  with pytest.raises(UserError, match=message):
    _read(folder("STS-B/train.tsv", text), task)


def test_a_malformed_number_of_a_test_example_is_refused(folder):
  text = "index\tsentence1\tsentence2\nx\ta\tb\n"
  with pytest.raises(UserError, match="line 2: 'x' is not the number"):
    _read(folder("RTE/test.tsv", text), "rte", "test")


def test_a_few_damaged_lines_are_skipped_and_logged(folder, caplog):
  lines = [f"{i}\tp\th\tentailment" for i in range(200)]
  text = "index\tsentence1\tsentence2\tlabel\n5\n" + "\n".join(lines)
  assert len(_read(folder("RTE/train.tsv", text), "rte")) == 200
  assert "1 lines have too few fields, as line 2" in caplog.text


def test_no_line_of_a_test_file_may_be_damaged(folder):
  lines = [f"{i}\tp\th" for i in range(200)]
  text = "index\tsentence1\tsentence2\n5\n" + "\n".join(lines)
  with pytest.raises(UserError, match="1 lines have too few fields"):
    _read(folder("RTE/test.tsv", text), "rte", "test")


# Files of a user's own task


@pytest.mark.parametrize(
  ("header", "texts"),
  [
    ("label\tsentence", ("a",)),
    ("note\tsentence1\tlabel\tsentence2", ("a", "b")),
  ],
)
def test_a_users_own_task_is_defined_by_its_files(folder, header, texts):
  values = {"sentence": "a", "sentence1": "a", "sentence2": "b", "note": ""}
  rows = [
    "\t".join({**values, "label": label}[name] for name in header.split("\t"))
    for label in ("ok", "bad", "ok")
  ]
  data_dir = folder("train.tsv", "\n".join([header, *rows]))
  task = glue_examples.task_from_files(data_dir)
  assert task.classes == ("bad", "ok")
  assert len(task.texts) == len(texts)
  examples = _all(_read(data_dir, "own"))
  assert [e["texts"] for e in examples] == [texts] * 3
  assert [e["label"] for e in examples] == [1.0, 0.0, 1.0]
  assert glue_tasks.task_from_dict(task._asdict()) == task


def test_spaces_around_a_users_labels_are_left_out(folder):
  text = "sentence\tlabel \na \tx\nb\tx \n"
  data_dir = folder("train.tsv", text)
  assert glue_examples.task_from_files(data_dir).classes == ("x",)
  assert _all(_read(data_dir, "own"))[1]["label"] == 0.0
  assert _read(data_dir, "own")[0]["texts"] == ("a ",)


@pytest.mark.parametrize(
  ("line", "message"),
  [
    (b"b\t ", r"train\.tsv line 3 has no label"),
    (b"b\ty\tc", r"train\.tsv line 3 has 3 fields and its first line 2"),
    (b"caf\xe9\ty", r"train\.tsv is not .*byte 22 is 0xe9"),
  ],
)
def test_a_damaged_line_of_a_users_own_file_is_named(folder, line, message):
  data_dir = folder("train.tsv", b"sentence\tlabel\na\tx\n" + line)
  with pytest.raises(UserError, match=message):
    _read(data_dir, "own")


def test_a_users_own_task_without_files_explains_the_leaf(tmp_path):
  with pytest.raises(
    UserError,
    match=r"train\.tsv can't.*config\.data\.source_args\.files\.data_d",
  ):
    glue_examples.task_from_files(str(tmp_path / "none"))


# TFDS


@pytest.fixture
def prepared(tmp_path):
  """Returns a directory with `glue/mnli` and `glue/stsb` in TFDS's format."""
  from tensorflow_datasets import features as tfds_features

  root = tmp_path / "tfds"
  tiny_tfds.glue_mnli(root)
  spec = {
    "sentence1": tfds_features.Text(),
    "sentence2": tfds_features.Text(),
    "label": tfds_features.Scalar(np.float32),
    "idx": tfds_features.Scalar(np.int32),
  }
  rows = [tiny_tfds.values(idx=0, label=2.5, sentence1="a", sentence2="b")]
  tiny_tfds.prepare(root, "glue/stsb", spec, {"train": rows}, version="2.0.0")
  return str(root)


def _prepared(data_dir, task, split):
  return glue_examples.make_examples(
    "tfds", task=task, split=split, data_dir=data_dir
  )


def test_tfds_has_the_same_examples(prepared):
  source = _prepared(prepared, "mnli", "train")
  assert source.class_names == ("entailment", "neutral", "contradiction")
  assert _all(source) == [
    {"texts": (f"é{i}", "h"), "label": float(i), "number": 7 - i}
    for i in range(3)
  ]
  (test,) = _all(_prepared(prepared, "mnli", "test_matched"))
  assert (test["label"], test["number"]) == (glue_examples.UNKNOWN, 4)
  assert _prepared(prepared, "stsb", "train")[0]["label"] == 2.5


def test_tfds_refuses_tasks_that_are_not_prepared_or_unknown(prepared):
  with pytest.raises(
    UserError, match=r"scripts.data.prepare --dataset=glue/rte"
  ):
    _prepared(prepared, "rte", "train")
  with pytest.raises(UserError, match="unknown task 'word_order'"):
    _prepared(prepared, "word_order", "train")


# Tiny tasks


@pytest.mark.parametrize("task", list(glue_tasks.TINY))
def test_tiny_tasks_have_balanced_classes_and_disjoint_splits(task):
  splits = {s: tiny_glue.examples(task, s) for s in tiny_glue.SPLITS}
  assert len(splits["train"]) > 5000
  for split, examples in splits.items():
    assert len(examples) > 300
    assert np.mean([label for _, label in examples]) == 0.5
    assert tiny_glue.examples(task, split) == examples
    sizes = [sum(len(text.encode()) for text in texts) for texts, _ in examples]
    assert max(sizes) <= 126
  texts = {split: set(examples) for split, examples in splits.items()}
  assert not texts["train"] & texts["validation"]
  assert not texts["validation"] & texts["test"]


def test_held_out_documents_are_not_in_the_training_text_of_the_small_model():
  trained = set(python_docs.python_docs("train", docstrings=True))
  assert not trained & set(python_docs.python_docs("test"))


def test_word_order_shuffles_all_words_of_a_passage():
  examples = tiny_glue.examples("word_order", "train")
  for (ordered, one), (shuffled, zero) in zip(
    examples[::2], examples[1::2], strict=True
  ):
    assert (one, zero) == (1, 0)
    assert ordered != shuffled
    assert sorted(ordered[0].split()) == sorted(shuffled[0].split())


def test_next_sentence_is_true_if_the_second_text_follows_the_first():
  documents = " ".join(python_docs.python_docs("train")).split()
  text = " ".join(documents)
  examples = tiny_glue.examples("next_sentence", "train")
  follows = [" ".join(texts) in text for texts, _ in examples]
  labels = [bool(label) for _, label in examples]
  assert np.mean(np.array(follows) == np.array(labels)) > 0.999
  assert all(f for f, label in zip(follows, labels, strict=True) if label)


def test_tiny_tasks_refuse_an_unknown_split():
  with pytest.raises(UserError, match="unknown split 'dev'"):
    glue_examples.make_examples("tiny", task="word_order", split="dev")

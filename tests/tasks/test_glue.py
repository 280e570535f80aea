"""Tests of the GLUE task, its runs and their predictions."""

import functools
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import task_helpers
import tiny_runs as runs
from scipy import special

from configs import glue as config_file
from configs import masked_lm as mlm_config_file
from perceiver_jax import weights
from perceiver_jax.data.text import glue_tasks
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import step

pytestmark = pytest.mark.usefixtures("compile_once")


def _config(variant="word_order,smoke", **leaves):
  return task_helpers.make_config(config_file, variant, **leaves)


def _task(variant="word_order,smoke", **leaves):
  return task_helpers.make_task(config_file, variant, **leaves)


@pytest.fixture
def benchmark(tmp_path):
  """Writes a few lines of CoLA, STS-B and MNLI in the layout of GLUE."""
  pair = "index\tsentence1\tsentence2"
  files = {
    "CoLA/train": [f"s\t{i % 2}\t\tword {i}" for i in range(8)],
    "CoLA/dev": ["s\t1\t\tyes", "s\t0\t\tno", "s\t1\t\tperhaps"],
    "CoLA/test": ["index\tsentence", "1\tb", "0\ta"],
    "STS-B/train": [f"{pair}\tscore", *(f"{i}\ta\tb\t{i}.5" for i in range(4))],
    "STS-B/dev": [f"{pair}\tscore", *(f"{i}\ta\tb\t{i}.25" for i in range(5))],
    "STS-B/test": [pair, "0\ta\tb", "1\tc\td"],
    "MNLI/train": [f"{pair}\tgold_label", "0\ta\tb\tneutral"],
    "MNLI/dev_matched": [f"{pair}\tgold_label", "0\ta\tb\tneutral"],
    "MNLI/dev_mismatched": [f"{pair}\tgold_label", "0\ta\tb\tentailment"],
    "MNLI/test_matched": [pair, "0\ta\tb"],
    "MNLI/test_mismatched": [pair, "0\ta\tb"],
    "diagnostic/diagnostic": [pair, "0\ta\tb", "1\tb\ta"],
  }
  for name, lines in files.items():
    path = tmp_path / "glue" / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
  return tmp_path / "glue"


_MIXED = {"word_order": 0, "cola": 2, "stsb": 1, "mnli": 3}


def _mixed(benchmark, **leaves):
  """Returns a smoke config of three tasks, which are read from files."""
  config = _config("multitask_query,smoke", data__source="files")
  config.data.source_args.files.data_dir = str(benchmark)
  for name, count in {**_MIXED, "next_sentence": 0}.items():
    config.model.decoder.outputs[name] = count
  for name, value in leaves.items():
    config.update_from_flattened_dict({name.replace("__", "."): value})
  return config


def test_the_loss_is_cross_entropy_of_classes_and_squared_error_of_scores(
  benchmark,
):
  task = tasks.make_task(_mixed(benchmark))
  assert list(task.tasks) == ["cola", "mnli", "stsb"]
  logits = np.array([[1, 3, -1e9], [1, 2, 4], [2.5, 9, 9]], np.float32)
  batch = {
    "label": np.array([0, 2, 4], np.float32),
    "task": np.array([0, 1, 2], np.int32),
  }
  sums = task.loss(task_helpers.outputs(logits), batch)
  expected = [
    special.logsumexp([1, 3]) - 1,
    special.logsumexp([1, 2, 4]) - 4,
    1.5**2,
  ]
  assert float(sums["loss"][0]) == pytest.approx(sum(expected), rel=1e-5)
  assert float(sums["loss"][1]) == 3
  # One of the two examples with classes is correct; scores have no accuracy.
  assert [float(x) for x in sums["accuracy"]] == [1, 2]


@pytest.mark.parametrize("size", [2, 5])
def test_metrics_of_a_data_set_do_not_depend_on_the_batch_size(benchmark, size):
  task = tasks.make_task(_mixed(benchmark))
  rng = np.random.default_rng(0)
  evaluated, examples = {}, {}
  for name, dataset in task.eval_datasets(global_batch=size).items():
    sums, rows = None, []
    for batch in dataset:
      logits = rng.normal(size=(size, 3)).astype(np.float32)
      metrics = task.metrics(task_helpers.outputs(logits), batch)
      sums = metrics if sums is None else jax.tree.map(np.add, sums, metrics)
      rows += [
        (label, row)
        for label, row, is_real in zip(
          batch["label"], logits, batch["mask"], strict=True
        )
        if is_real
      ]
    evaluated[name] = {
      k: np.asarray(s / c if np.ndim(s) == 0 else s)
      for k, (s, c) in sums.items()
    }
    examples[name] = rows
  metrics = task.finalize_metrics(evaluated)
  assert set(metrics) == {
    "cola", "stsb", "mnli_matched", "mnli_mismatched", "glue",
  }  # fmt: skip
  labels, rows = zip(*examples["stsb"], strict=True)
  assert len(labels) == 5
  assert metrics["stsb"]["pearson"] == pytest.approx(
    np.corrcoef(labels, [row[0] for row in rows])[0, 1], rel=1e-4
  )
  assert set(metrics["cola"]) == {"loss", "matthews", "accuracy"}
  labels, rows = zip(*examples["cola"], strict=True)
  accuracy = np.mean(
    [np.argmax(r) == y for y, r in zip(labels, rows, strict=True)]
  )
  assert metrics["cola"]["accuracy"] == pytest.approx(accuracy)
  parts = [metrics[f"mnli_{p}"]["accuracy"] for p in ("matched", "mismatched")]
  assert metrics["glue"]["average"] == pytest.approx(
    np.mean(
      [metrics["cola"]["matthews"], metrics["stsb"]["pearson"], np.mean(parts)]
    )
  )


@pytest.mark.parametrize(
  ("temperature", "share"), [(1.0, 8 / 13), (float("inf"), 1 / 3)]
)
def test_tasks_are_sampled_by_their_size_and_the_temperature(
  benchmark, temperature, share
):
  config = _mixed(benchmark, data__sampling_temperature=temperature)
  task = tasks.make_task(config)
  (batch,) = task_helpers.train_batches(task, 1, 1000)
  drawn = batch["task"]
  assert np.mean(drawn == 0) == pytest.approx(share, abs=0.002)
  assert set(drawn) == {0, 1, 2}


@pytest.mark.parametrize(
  ("variant", "first"),
  [
    ("multitask_query,smoke", [97 + 6, 5, 98 + 6]),
    ("multitask_shared_token,smoke", [4, 97 + 6, 5, 98 + 6]),
    ("multitask_task_tokens,smoke", [263, 97 + 6, 5, 98 + 6]),
    ("multitask_shared_token,byte_bert,smoke", [4, 97 + 6, 5, 98 + 6]),
  ],
)
def test_texts_start_with_the_first_token_of_the_config(variant, first):
  task = _task(variant)
  assert list(task.tasks) == ["next_sentence", "word_order"]
  tokens = task.texts.batch_of("word_order", [["a", "b"]])["tokens"][0]
  assert list(tokens[: len(first)]) == first


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
  """Writes random weights of the smoke run's masked language model."""
  config = mlm_config_file.get_config("smoke")
  task = tasks.make_task(config)
  model = step.model_of(task, config.precision)
  init = functools.partial(model.init, is_training=False)
  shapes, _ = jax.eval_shape(init, jax.random.key(0), task.dummy_batch())
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), shapes
  )
  path = tmp_path_factory.mktemp("weights") / "mlm.safetensors"
  weights.save(path, weights.Weights(config.model.to_dict(), params, {}))
  return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, call, compiling_once, pretrained):
  """Returns folder and `Done` of a smoke run of both tiny tasks; read only."""
  folder = tmp_path_factory.mktemp("runs") / "glue"
  file = runs.ROOT / "configs" / "glue.py"
  with compiling_once():
    done = call(
      "train",
      f"--workdir={folder}",
      f"--config={file}:multitask_shared_token,smoke",
      f"--config.init_from={pretrained}",
      "--config.optimizer.learning_rate=0.0",
      "--num_devices=1",
    )
  assert done.status == 0, done.err
  return folder, done


def test_a_run_of_several_tasks_has_the_metrics_of_all(trained):
  folder, _ = trained
  results = json.loads((folder / "results.json").read_text())
  assert set(results["metrics"]) == {
    "word_order/loss", "word_order/accuracy", "next_sentence/loss",
    "next_sentence/accuracy", "glue/average",
  }  # fmt: skip
  page = (folder / "report.html").read_text()
  assert "Sample texts" in page
  assert "[SEP]" in page


def test_a_run_is_initialized_from_a_masked_language_model(trained, pretrained):
  folder, done = trained
  assert "8 initialized: decoder/next_sentence_hidden/b" in done.out
  assert "1 skipped: decoder/bias" in done.out
  # The learning rate is 0.
  old, new = (weights.load(path).params for path in (pretrained, folder))
  np.testing.assert_array_equal(
    old["decoder/query"]["embeddings"], new["decoder/query"]["embeddings"]
  )


def _classify(call, folder, *arguments):
  return call("predict", "classify-text", f"--workdir={folder}", *arguments)


def test_predict_prints_the_classes_of_texts(call, trained):
  done = _classify(call, trained[0], "--task=word_order", "one two", "\x00é🙂")
  assert done.status == 0, done.err
  lines = done.out.splitlines()
  assert len(lines) == 6
  for line in (*lines[1:3], *lines[4:]):
    assert "shuffled" in line or "in_order" in line
    assert "%" in line


def test_predict_prints_the_classes_of_pairs(call, trained):
  done = _classify(call, trained[0], "--task=next_sentence", "one", "two")
  assert done.status == 0, done.err
  first, *rest = done.out.splitlines()
  assert first == "one | two"
  assert {line.split()[0] for line in rest} == {"elsewhere", "next"}


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((), "no text is given"),
    (("one",), "--task is ''; choose one of this run: next_sentence, word"),
    (("--task=cola", "one"), "--task is 'cola'"),
    (("--task=next_sentence", "one"), "1 texts are given, but .* pairs"),
  ],
)
def test_predict_refuses_missing_texts_and_unknown_tasks(
  call, trained, arguments, message
):
  done = _classify(call, trained[0], *arguments)
  assert done.status == 2
  assert done.out == ""
  assert len(done.err.splitlines()) == 1
  assert re.search(message, done.err)


def test_attention_needs_the_task_of_the_run(call, refuses, trained, tmp_path):
  folder, pages = trained[0], []
  attend = ("predict", "attention", f"--output={tmp_path}")
  for flag in ("workdir", "weights"):
    run = f"--{flag}={folder}"
    refuses(*attend, run, "one", parts=["--task is ''; choose one of"])
    done = call(*attend, run, "--task=word_order", "one")
    assert done.status == 0, done.err
    pages.append(Path(done.out.splitlines()[1].strip()).read_text())
  assert pages[0] == pages[1]
  file = f"--weights={folder / 'model.safetensors'}"
  parts = ["is of a run on GLUE", "--workdir"]
  refuses(*attend, file, "--task=word_order", "one", parts=parts)


@pytest.fixture
def own(tmp_path):
  """Writes train.tsv and dev.tsv of a user's own task."""
  lines = [f"{'good' if i % 2 else 'bad'}\ttext {i}" for i in range(40)]
  for name in ("train", "dev"):
    text = "\n".join(["label\tsentence", *lines])
    (tmp_path / f"{name}.tsv").write_text(text)
  return tmp_path


def test_predictions_of_a_users_own_task_need_no_files(own):
  config = _config("own,smoke")
  config.data.source_args.files.data_dir = str(own)
  config = tasks.complete_config(config)
  task = tasks.make_task(config)
  assert task.num_train_examples() == 40
  stored = json.loads(json.dumps(task.metadata()))
  for file in own.glob("*.tsv"):
    file.unlink()
  again = tasks.make_task(config, stored)
  assert again.tasks == task.tasks
  assert again.texts.answer("own", np.array([1.0, 3.0]))[0] == "good"


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ("bad", "poor", "2 classes .* number 0, 'good' instead of 'bad'"),
    ("bad\ttext 2\n", "fair\ta\n", "3 classes .* number 1, 'fair' instead"),
  ],
)
def test_texts_of_other_classes_than_the_runs_are_refused(
  own, old, new, message
):
  config = _config("own,smoke")
  config.data.source_args.files.data_dir = str(own)
  config = tasks.complete_config(config)
  stored = json.loads(json.dumps(tasks.make_task(config).metadata()))
  tasks.make_task(config, stored).eval_sources()
  for file in own.glob("*.tsv"):
    file.write_text(file.read_text().replace(old, new))
  with pytest.raises(UserError, match=message):
    tasks.make_task(config, stored).eval_sources()


def test_the_texts_decide_the_classes_and_splits(own):
  config = _config("own,small")
  config.data.source_args.files.data_dir = str(own)
  complete = tasks.complete_config(config)
  assert complete.model.decoder.outputs.own == 2
  assert config.model.decoder.outputs.own == 0
  assert (complete.data.train_split, complete.data.eval_split) == (
    "train",
    "validation",
  )
  assert tasks.complete_config(complete) is complete


def test_a_tenth_of_a_single_file_is_held_out(own):
  config = _config("own,small")
  config.data.source_args.files.data_dir = str(own / "train.tsv")
  complete = tasks.complete_config(config)
  assert complete.data.train_split == "train[10%:]"
  assert complete.data.eval_split == "train[:10%]"
  task = tasks.make_task(complete)
  sources = [task.source("train"), *task.eval_sources().values()]
  train, held_out = (
    [source[i]["texts"] for i in range(len(source))] for source in sources
  )
  assert (len(train), len(held_out)) == (36, 4)
  assert len({*train, *held_out}) == 40


def test_rare_labels_are_named(tmp_path, caplog):
  config = _config("own,small")
  path = tmp_path / "texts.tsv"
  lines = [f"{label}\ta text" for label in ["yes"] * 20 + ["no"] * 20]
  path.write_text("\n".join(["label\tsentence", *lines, "maybe\tone"]))
  config.data.source_args.files.data_dir = str(path)
  config.data.train_split = config.data.eval_split = "train"
  complete = tasks.complete_config(config)
  assert complete.model.decoder.outputs.own == 3
  assert "1 of 3 classes have fewer than two training texts: maybe" in (
    caplog.text
  )


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (None, "no texts are given.*source_args.files.data_dir"),
    ("label\tsentence\na\tb\n", "only the label 'a'"),
    ("label\tsentence\na\tb\nc\td\n", r"has none of the 2 examples"),
    ("labels\tsentence\na\tb\n", "no column 'label'"),
  ],
)
def test_texts_that_cannot_be_trained_on_are_refused(tmp_path, text, message):
  config = _config("own,small")
  if text:
    path = tmp_path / "texts.tsv"
    path.write_text(text)
    config.data.source_args.files.data_dir = str(path)
  with pytest.raises(UserError, match=message):
    tasks.make_task(tasks.complete_config(config)).eval_sources()


@pytest.mark.slow
def test_a_users_own_task_can_be_trained_and_predicted(own, call):
  file = runs.ROOT / "configs" / "glue.py"
  folder = own / "run"
  done = call(
    "train",
    f"--workdir={folder}",
    f"--config={file}:own,smoke",
    "--num_devices=1",
    f"--config.data.source_args.files.data_dir={own}",
  )
  assert done.status == 0, done.err
  results = json.loads((folder / "results.json").read_text())
  assert "own/accuracy" in results["metrics"]
  done = _classify(call, folder, "some text")
  assert done.status == 0, done.err
  printed = {line.split()[0] for line in done.out.splitlines()[1:]}
  assert printed == {"good", "bad"}


@pytest.mark.parametrize(
  ("leaves", "message"),
  [
    ({"model__decoder__outputs__word_order": 0}, "no task of .*outputs has"),
    ({"model__decoder__outputs__word_order": 3}, "word_order is 3.*has 2"),
    ({"data__first_token": "all"}, "first_token is 'all'; choose one of none"),
    ({"data__first_token": "task"}, "num_task_tokens is 0, but 1 are needed"),
    ({"data__sampling_temperature": 0.5}, "sampling_temperature is 0.5"),
    (
      {"data__sampling_temperature": float("nan")},
      "sampling_temperature is nan",
    ),
    ({"data__source": "files"}, r"train\.tsv can't be read"),
    ({"data__tokenizer": "words"}, "tokenizer"),
    ({"model__adapter__vocab_size": 300}, "vocab_size is 300.*has 262"),
  ],
)
def test_invalid_configs_are_refused(leaves, message):
  with pytest.raises(UserError, match=message):
    next(iter(_task(**leaves).train_dataset(global_batch=2)))


def test_evaluation_on_a_test_set_without_labels_is_refused(benchmark):
  task = tasks.make_task(_mixed(benchmark, data__eval_split="test"))
  with pytest.raises(UserError, match=r"'cola' has no labels.*submit_glue"):
    task.eval_datasets(global_batch=2)


def test_published_rows_are_those_of_the_papers_table():
  row = _task("multitask_query").published
  assert row["glue/average"] == pytest.approx(0.8179)
  assert row["cola/matthews"] == pytest.approx(0.4788)
  assert row["stsb/pearson"] == pytest.approx(0.7995)
  row = dict(_task("mnli,sentencepiece").published)
  assert row.pop("source") == "Perceiver IO v3, Table 14"
  assert row == pytest.approx(
    {"mnli_matched/accuracy": 0.8453, "mnli_mismatched/accuracy": 0.8503}
  )


def test_the_row_of_bert_base_has_the_papers_average():
  config = config_file.get_config("cola,bert_base")
  assert config.data.tokenizer == "sentencepiece.model"
  assert config.data.first_token == "cls"
  rows = [
    config_file.get_config(f"{name},bert_base").published.to_dict()
    for name in glue_tasks.GLUE
  ]
  measured = [
    np.mean([v for k, v in row.items() if k != "source"]) for row in rows
  ]
  assert np.mean(measured) == pytest.approx(0.8114, abs=5e-5)


def test_the_config_has_a_variant_for_every_task_of_the_paper():
  for name, task in glue_tasks.GLUE.items():
    outputs = config_file.get_config(name).model.decoder.outputs
    assert outputs.to_dict() == {name: task.num_outputs}


def test_a_published_average_is_omitted_if_tasks_are_left_out():
  row = _task("multitask_query", model__decoder__outputs__qqp=0).published
  assert "glue/average" not in row
  assert "qqp/accuracy" not in row
  assert "cola/matthews" in row


def test_byte_bert_with_task_queries_is_refused():
  with pytest.raises(UserError, match="multitask_shared_token"):
    config_file.get_config("multitask_query,byte_bert")


def test_samples_have_scores_as_numbers_and_classes_as_names(benchmark):
  task = tasks.make_task(_mixed(benchmark))
  rows = {
    name: task.texts.sample(
      task.texts.batch_of(name, [["a", "b"]])["tokens"][0],
      np.float32(1),
      number,
      np.array([5.7, 0.0, 0.0]),
    )
    for number, name in enumerate(task.tasks)
    if name != "cola"
  }
  assert rows["stsb"][1:] == ("1.000", "5.000", None)
  assert rows["mnli"][1:3] == ("neutral", "entailment")

"""Tests of the masked language modeling task."""

import json
import math

import jax
import numpy as np
import pytest
import task_helpers
import tiny_runs as runs

from configs import masked_lm as config_file
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import ngram
from perceiver_jax.tasks import masked_lm
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import loop, step

pytestmark = pytest.mark.usefixtures("compile_once")


def _task(variant="bytes,smoke", **leaves):
  return task_helpers.make_task(config_file, variant, **leaves)


def _batch(task, size=4):
  (batch,) = task_helpers.train_batches(task, 1, size)
  return {**batch, "mask": np.ones(size, np.float32)}


def test_metrics_are_those_of_masked_bytes_of_real_examples():
  task = _task()
  batch = _batch(task)
  batch["mask"][-1] = 0
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(*batch["tokens"].shape, 262)).astype(np.float32)
  sums = task.metrics(task_helpers.outputs(logits), batch)
  masked = batch["masked"][:-1]
  shifted = logits - logits.max(-1, keepdims=True)
  probabilities = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)
  own = np.take_along_axis(probabilities, batch["tokens"][..., None], -1)[
    ..., 0
  ]
  assert float(sums["loss"][0]) == pytest.approx(
    -np.log(own[:-1][masked]).sum(), rel=1e-5
  )
  correct = logits.argmax(-1) == batch["tokens"]
  assert float(sums["accuracy"][0]) == correct[:-1][masked].sum()
  for name in ("loss", "accuracy"):
    assert float(sums[name][1]) == masked.sum() > 0


def test_training_counts_tokens_without_padding():
  task = _task()
  batch = _batch(task)
  batch["tokens"][0, 10:], batch["masked"][0, 10:] = 0, False
  logits = np.zeros((*batch["tokens"].shape, 262))
  total, count = task.loss(task_helpers.outputs(logits), batch)["tokens"]
  assert float(count) == 4
  assert float(total) == (batch["tokens"] != 0).sum() < 4 * 64


def test_decoding_only_masked_positions_gives_the_same_loss():
  whole, few = (_task(data__max_masked=count) for count in (0, 40))
  batch = _batch(whole)
  assert batch["masked"].sum(-1).max() <= 40
  logits = np.random.default_rng(0).normal(size=(4, 64, 262))
  prepared = few.prepare_batch(batch)
  chosen = np.take_along_axis(
    logits, np.asarray(prepared["queries"])[..., None], 1
  )
  expected = whole.loss(task_helpers.outputs(logits), batch)
  sums = few.loss(task_helpers.outputs(chosen), prepared)
  for name in ("loss", "accuracy", "tokens"):
    np.testing.assert_allclose(sums[name], expected[name], rtol=1e-5)


@pytest.mark.parametrize(
  ("variant", "few", "every"), [("small", 48, 128), ("small,smoke", 48, 64)]
)
def test_training_decodes_few_positions_and_evaluation_all(variant, few, every):
  task = _task(variant)
  model = step.model_of(task, "float32")

  def shape(is_training):
    def run(key):
      batch = task.dummy_batch()
      variables = model.init(key, batch, is_training)
      if is_training:
        batch = task.prepare_batch(batch)
      return model.apply(*variables, None, batch, is_training)[0].logits

    return jax.eval_shape(run, jax.random.key(0)).shape

  assert shape(True) == (1, few, 262)
  assert shape(False) == (1, every, 262)


def test_masked_tokens_have_no_effect_on_the_model():
  task = _task()
  batch = _batch(task)
  config = config_file.get_config("bytes,smoke")
  model = step.model_of(task, config.precision)
  params, state = task_helpers.random_variables(model, batch)
  other = {**batch, "tokens": np.where(batch["masked"], 99, batch["tokens"])}
  apply = jax.jit(
    lambda b: model.apply(params, state, None, b, False)[0].logits
  )
  np.testing.assert_array_equal(apply(batch), apply(other))


def test_masked_words_differ_between_epochs_but_not_between_evaluations():
  task = _task()
  size = task.num_train_examples()
  first, second = task_helpers.train_batches(task, 2, size)
  masked = [
    epoch["masked"][np.argsort(epoch["index"])] for epoch in (first, second)
  ]
  assert (masked[0] != masked[1]).any(-1).mean() > 0.9
  evals = [
    next(iter(task.eval_datasets(global_batch=16)["eval"])) for _ in range(2)
  ]
  for name in ("tokens", "masked", "mask"):
    np.testing.assert_array_equal(evals[0][name], evals[1][name])


def test_a_corpus_can_be_a_users_own_files(tmp_path):
  (tmp_path / "own.txt").write_text("".join(f"line {i}\n" for i in range(200)))
  task = _task(
    data__corpora__python_docs__source="files",
    data__corpora__python_docs__arguments__files__train=str(tmp_path / "*.txt"),
  )
  texts = list(task.train_texts())
  assert len(texts) == task.num_train_examples() == 198
  assert "line 99" not in texts


def test_corpora_of_weight_zero_are_left_out_but_one_is_required():
  config = config_file.get_config("bytes")
  config.data.corpora.python_docs = config_file.get_config(
    "smoke"
  ).data.corpora["python_docs"]
  for name in ("c4", "wikipedia"):
    config.data.corpora[name].weight = 0.0
  assert tasks.make_task(config).num_train_examples() > 100
  config.data.corpora.python_docs.weight = 0.0
  with pytest.raises(UserError, match="no corpus"):
    tasks.make_task(config).num_train_examples()


def test_masked_bytes_returns_text_and_mask_of_each_example():
  task = _task()
  batch = next(iter(task.eval_datasets(global_batch=16)["eval"]))
  texts = masked_lm.masked_bytes(batch)
  assert len(texts) == batch["mask"].sum()
  text, masked = texts[0]
  assert text.decode(errors="replace") == task.tokenizer.decode(
    batch["tokens"][0]
  )
  assert masked.sum() == batch["masked"][0].sum()


@pytest.mark.parametrize(
  ("leaf", "value", "message"),
  [
    ("model__adapter__vocab_size", 300, "vocab_size is 300.*has 262"),
    (
      "data__corpora__python_docs__weight",
      -1.0,
      r"python_docs\.weight is -1.0",
    ),
    (
      "data__corpora__python_docs__weight",
      math.nan,
      r"python_docs\.weight is nan",
    ),
    (
      "data__corpora__python_docs__weight",
      math.inf,
      r"python_docs\.weight is inf",
    ),
    ("data__mask_rate", 0.0, "mask_rate is 0.0"),
    ("data__mask_rate", 1.0, "mask_rate is 1.0"),
    ("data__max_masked", 65, "max_masked is 65.*at most.* 64"),
    ("data__tokenizer", "words", "tokenizer"),
  ],
)
def test_invalid_configs_are_refused(leaf, value, message):
  with pytest.raises(UserError, match=message):
    _task(**{leaf: value}).num_train_examples()


# The smoke run of BERT base is that of BERT on bytes.
@pytest.mark.parametrize(
  "variant",
  ["bytes,smoke", pytest.param("byte_bert,smoke", marks=pytest.mark.slow)],
)
def test_a_smoke_run_writes_results_report_and_token_rates(variant, tmp_path):
  config = config_file.get_config(variant)
  outcome = loop.Trainer(config, tasks.make_task(config), tmp_path, 1).run()
  assert outcome.stopped == ""
  assert set(outcome.results["metrics"]) == {"eval/loss", "eval/accuracy"}
  page = (tmp_path / "report.html").read_text()
  assert "Masked tokens" in page
  assert "<del>" in page
  rates = [
    json.loads(line).get("speed/tokens_per_second", 0)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
  ]
  assert max(rates) > 0


@pytest.mark.slow
def test_a_resumed_run_has_the_same_final_state(tmp_path, monkeypatch):
  config = config_file.get_config("smoke")
  train = lambda folder: loop.Trainer(
    config, tasks.make_task(config), folder
  ).run()
  train(tmp_path / "whole")
  monkeypatch.setattr(
    loop.interrupts, "Interrupts", runs.stop_at({3: "asked to stop"})
  )
  assert train(tmp_path / "stopped").stopped == "asked to stop"
  monkeypatch.undo()
  train(tmp_path / "stopped")
  runs.assert_same_end(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.nightly
def test_the_small_model_is_soon_better_than_a_5_gram_model(tmp_path):
  config = config_file.get_config("small")
  # A sixth of the run, in which the learning rate falls to 0.
  config.num_steps, config.eval_every_steps = 800, 0
  task = tasks.make_task(config)
  outcome = loop.Trainer(config, task, tmp_path, num_devices=1).run()
  texts = (text.encode("utf-8", "replace") for text in task.train_texts())
  pairs = (
    pair
    for batch in task.eval_datasets(global_batch=64)["eval"]
    for pair in masked_lm.masked_bytes(batch)
  )
  baseline = ngram.accuracy(ngram.NGram(texts, 5), pairs)
  assert 0.2 < baseline < outcome.results["metrics"]["eval/accuracy"]


@pytest.mark.parametrize("variant", ["own,smoke", "small,own", "own,bytes"])
def test_text_of_ones_own_is_the_only_corpus(tmp_path, variant):
  text = "\n\n".join(f"paragraph {i}\nof two lines" for i in range(200))
  (tmp_path / "a.txt").write_text(text)
  corpus = "data__corpora__own__arguments__files__train"
  config = task_helpers.make_config(
    config_file, variant, **{corpus: str(tmp_path)}
  )
  model = variant.replace("own", "").strip(",")
  other = config_file.get_config("small,smoke" if model == "smoke" else model)
  assert config.model.to_dict() == other.model.to_dict()
  assert list(config.data.corpora) == ["own"]
  task = tasks.make_task(config)
  assert len(task.source("train")) == 198
  (held_out,) = task.eval_sources().values()
  assert len(held_out) == 2


def test_text_of_ones_own_that_is_not_given():
  task = _task("own,smoke")
  with pytest.raises(UserError, match=r"arguments\.files\.train"):
    task.source("train")

"""Tests of the autoregressive task."""

import math

import jax
import numpy as np
import optax
import pytest
import task_helpers

from configs import perceiver_ar as config_file
from perceiver_jax.data.sequences.source import PAD
from perceiver_jax.errors import UserError
from perceiver_jax.training import evaluation, restore, step

pytestmark = pytest.mark.usefixtures("compile_once")


def _task(variant="copy,smoke", **leaves):
  return task_helpers.make_task(config_file, variant, **leaves)


def _eval_batch(task, size=4):
  iterator = iter(task.eval_datasets(global_batch=size)["eval"])
  batch = next(iterator)
  iterator.close()
  return batch


def _logits(batch, vocab_size, seed=0):
  rng = np.random.default_rng(seed)
  shape = (*batch["targets"].shape, vocab_size)
  return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("variant", ["copy", "bytes", "imagenet64", "maestro"])
def test_batches_have_the_shapes_of_the_dummy_batch(variant):
  task = _task(f"{variant},smoke")
  dummy = task.dummy_batch()
  (batch,) = task_helpers.train_batches(task, 1, 2)
  for name, value in batch.items():
    assert value.shape[1:] == dummy[name].shape[1:], name
    assert value.dtype == dummy[name].dtype, name
  for name in dummy:
    assert name in _eval_batch(task, 2)


def test_targets_are_the_tokens_after_the_latents():
  task = _task("bytes,smoke")
  (batch,) = task_helpers.train_batches(task, 1, 8)
  for tokens, targets in zip(batch["tokens"], batch["targets"], strict=True):
    inputs = tokens[tokens != PAD]
    known = targets[targets != PAD]
    overlap = min(len(inputs), len(targets)) - 1
    assert len(known) == min(len(inputs), len(targets))
    np.testing.assert_array_equal(
      inputs[len(inputs) - overlap :], known[-overlap - 1 : -1]
    )


def test_metrics_are_those_of_the_targets_of_real_examples():
  task = _task("bytes,smoke")
  batch = _eval_batch(task)
  batch["mask"][-1] = 0
  logits = _logits(batch, 262)
  sums = task.metrics(task_helpers.outputs(logits), batch)
  targets = batch["targets"][:-1]
  losses = optax.softmax_cross_entropy_with_integer_labels(logits[:-1], targets)
  counted = targets != PAD
  nats = float((losses * counted).sum())
  assert float(sums["loss"][0]) == pytest.approx(nats, rel=1e-5)
  assert float(sums["loss"][1]) == counted.sum()
  assert (
    float(sums["accuracy"][0])
    == ((logits[:-1].argmax(-1) == targets) & counted).sum()
  )
  bits, units = sums["bits_per_byte"]
  assert float(bits) == pytest.approx(nats / math.log(2), rel=1e-5)
  assert float(units) == pytest.approx(batch["num_units"][:-1].sum())
  final = task.finalize_metrics(
    {"eval": {"loss": np.float64(2.0), "nats_per_word": np.float64(3.0)}}
  )["eval"]
  assert final == {
    "loss": 2.0,
    "perplexity": pytest.approx(math.e**2),
    "word_perplexity": pytest.approx(math.e**3),
  }


def test_the_bytes_of_an_evaluation_are_those_of_the_texts():
  task = _task("bytes,smoke")
  windows = task.source("eval")
  bytes_ = sum(windows[i]["num_units"] for i in range(len(windows)))
  text = sum(
    len(part) - 2
    for part in {
      windows[i]["tokens"].tobytes(): windows[i]["tokens"]
      for i in range(len(windows))
    }.values()
  )
  assert bytes_ == pytest.approx(text, rel=1e-4)
  assert len(windows) > 500


def test_z_loss_is_added_in_training_alone():
  with_z, without = (_task(z_loss=weight) for weight in (0.5, 0.0))
  (batch,) = task_helpers.train_batches(with_z, 1, 4)
  outputs = task_helpers.outputs(_logits(batch, 259))
  more, less = (task.loss(outputs, batch)["loss"] for task in (with_z, without))
  log_z = np.asarray(jax.nn.logsumexp(outputs.logits, -1))
  expected = 0.5 * (np.square(log_z) * (batch["targets"] != PAD)).sum()
  assert float(more[0] - less[0]) == pytest.approx(expected, rel=1e-4)
  masked = {**batch, "mask": np.ones(4, np.float32)}
  assert float(with_z.metrics(outputs, masked)["loss"][0]) == pytest.approx(
    float(less[0]), rel=1e-5
  )


def test_a_smaller_stride_evaluates_the_same_tokens_in_more_windows():
  whole, strided = (
    _task(data__eval_stride=stride, data__source_args__mirrored__num_test=2)
    for stride in (0, 2)
  )
  counts = []
  for task in (whole, strided):
    windows = task.source("eval")
    examples = [task.preprocess(windows[i], None) for i in range(len(windows))]
    counts.append(sum(int((x["targets"] != PAD).sum()) for x in examples))
  assert counts == [2 * 16, 2 * 16]
  assert len(strided.source("eval")) == 4 * len(whole.source("eval"))


def test_an_evaluation_does_not_depend_on_the_batch_size():
  means = []
  for size in (3, 8):
    config = task_helpers.make_config(config_file, "copy,smoke")
    task = task_helpers.make_task(config_file, "copy,smoke")
    mesh = step.make_mesh(1)
    model = step.model_of(task, config.precision)
    params, state = task_helpers.random_variables(model, task.dummy_batch())
    abstract = restore.abstract_state(config, task, mesh)
    results = evaluation.evaluate_all(
      evaluation.make_eval_step(model, task, mesh),
      abstract._replace(params=params, net_state=state, ema_params=()),
      task.eval_datasets(global_batch=size),
      mesh,
    )
    means.append(results["eval"])
  np.testing.assert_allclose(means[0]["loss"], means[1]["loss"], rtol=1e-5)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_losses_with_dropout_agree_on_any_number_of_devices(devices):
  leaves = {
    "model__encoder__dropout": 0.2,
    "model__encoder__input_dropout": 0.2,
  }
  task = _task(**leaves)
  (batch,) = task_helpers.train_batches(task, 1, 8)
  losses = []
  for count in (1, devices):
    mesh = step.make_mesh(count)
    model = step.model_of(task, "float32")
    init = step.make_init(model, optax.sgd(0.1), 0, use_ema=False)
    state = jax.device_get(jax.jit(init)(task.dummy_batch()))
    rng = np.random.default_rng(0)  # The logits start from zero.
    state = state._replace(
      params=jax.tree.map(
        lambda x, rng=rng: np.float32(0.3 * rng.normal(size=x.shape)),
        state.params,
      )
    )
    train = step.make_train_step(model, task, optax.sgd(0.1), mesh)
    placed = jax.device_put(state, step.replicated(mesh))
    _, metrics = train(placed, step.place_train_batch(batch, mesh))
    losses.append({k: float(v[0]) for k, v in metrics.items()})
  assert losses[1] == pytest.approx(losses[0], rel=1e-4)
  assert losses[0]["grad_norm"] > 0


@pytest.mark.parametrize(
  ("leaves", "message"),
  [
    ({"data__context_length": 4}, "at least the model's 8 latents"),
    (
      {"data__context_length": 10_000},
      "less than model.adapter.position_sizes",
    ),
    ({"data__eval_stride": 9}, "at most the model's 8 latents"),
    ({"data__min_crop": -1}, "data.min_crop is -1"),
    ({"data__source": "music"}, "choose one of text, images, mirrored"),
    ({"data__documents_per_example": 0}, "1 or more"),
    ({"z_loss": -1.0}, "z_loss"),
  ],
)
def test_impossible_leaves_are_refused(leaves, message):
  with pytest.raises(UserError, match=message):
    _task(**leaves)


def test_a_missing_folder_of_tokens_is_named(tmp_path):
  task = _task(
    "maestro",
    data__source_args__token_files__train=str(tmp_path),
  )
  with pytest.raises(UserError, match="no token file"):
    task.source("train")

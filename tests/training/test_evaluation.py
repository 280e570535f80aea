"""Tests of the evaluation step and of means over evaluation datasets."""

import chex
import haiku as hk
import jax
import numpy as np
import optax
import pytest
import tiny_runs
from jax import numpy as jnp

from perceiver_jax.data.core import pipeline
from perceiver_jax.data.core.in_memory import InMemoryArrays
from perceiver_jax.errors import UserError
from perceiver_jax.tasks.shared import classification
from perceiver_jax.training import evaluation, metrics, step

# A prime, so that no batch size divides it.
EXAMPLES, FEATURES, CLASSES = 37, 4, 3
DEVICES = (1, 2, 8)

pytestmark = pytest.mark.usefixtures("quick_compile")


class Classifier:
  """A linear classifier whose metrics also count the visits of each example."""

  def forward(self, batch, *, is_training, return_attention=False):
    assert not is_training
    shift = hk.get_state("shift", (), init=jnp.zeros)
    return hk.Linear(CLASSES)(batch["x"]) + shift * jnp.arange(CLASSES)

  def metrics(self, outputs, batch):
    losses = optax.softmax_cross_entropy_with_integer_labels(
      outputs, batch["label"]
    )
    loss = metrics.weighted(losses, batch["mask"])
    correct = metrics.in_top_k(outputs, batch["label"], 1)
    visits = jnp.zeros(EXAMPLES).at[batch["index"]].add(batch["mask"])
    return {
      "loss": loss,
      "accuracy": metrics.weighted(correct, batch["mask"]),
      "confusion": (
        metrics.confusion(
          batch["label"], outputs.argmax(-1), batch["mask"], CLASSES
        ),
        loss[1],
      ),
      "visits": (visits, loss[1]),
    }


@pytest.fixture(scope="module")
def examples():
  rng = np.random.default_rng(0)
  return {
    "x": rng.normal(size=(EXAMPLES, FEATURES)).astype(np.float32),
    "label": rng.integers(0, CLASSES, EXAMPLES).astype(np.int32),
  }


@pytest.fixture(scope="module")
def params():
  rng = np.random.default_rng(1)
  return {
    "linear": {
      "w": rng.normal(size=(FEATURES, CLASSES)).astype(np.float32),
      "b": rng.normal(size=CLASSES).astype(np.float32),
    }
  }


def make_state(params, mesh, ema_params=(), shift=0.0):
  state = step.TrainState(
    jnp.int32(3),
    params,
    {"~": {"shift": np.float32(shift)}},
    (),
    ema_params,
    jax.random.key_data(jax.random.key(0)),
  )
  return jax.device_put(state, step.replicated(mesh))


def batches(examples, size, **shard):
  names = [str(i) for i in range(CLASSES)]
  source = InMemoryArrays(examples, names)
  return pipeline.eval_dataset(source, global_batch=size, **shard)


def evaluate(examples, size, devices, params, task=None, **state):
  mesh = step.make_mesh(devices)
  task = task or Classifier()
  eval_step = evaluation.make_eval_step(
    step.model_of(task, "float32"), task, mesh
  )
  return evaluation.evaluate_all(
    eval_step,
    make_state(params, mesh, **state),
    {"eval": batches(examples, size)},
    mesh,
  )["eval"]


def expected_means(examples, params, shift=0.0):
  logits = examples["x"] @ params["linear"]["w"] + params["linear"]["b"]
  logits = logits.astype(np.float64) + shift * np.arange(CLASSES)
  labels = examples["label"]
  log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  predictions = logits.argmax(axis=1)
  confusion = np.zeros((CLASSES, CLASSES))
  np.add.at(confusion, (labels, predictions), 1)
  return {
    "loss": -log_p[np.arange(EXAMPLES), labels].mean(),
    "accuracy": (predictions == labels).mean(),
    "confusion": confusion,
    "visits": np.ones(EXAMPLES),
  }


def assert_close(means, expected):
  assert means.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(means[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("size", [8, 24, 40])
def test_every_example_counts_once_on_any_number_of_devices(
  examples, params, devices, size
):
  means = evaluate(examples, size, devices, params)
  assert_close(means, expected_means(examples, params))
  assert means["confusion"].sum() == EXAMPLES


@pytest.mark.parametrize("devices", DEVICES)
def test_predictions_of_all_examples_are_kept_on_any_number_of_devices(
  examples, params, devices
):
  class Predicting(Classifier):
    def metrics(self, outputs, batch):
      return classification.evaluation_metrics(outputs, batch)

  means = evaluate(examples, 24, devices, params, task=Predicting())
  index = means["example_index"]
  assert len(index) == 48  # Of two batches, the second of which is padded.
  assert index[index >= 0].tolist() == list(range(EXAMPLES))
  logits = examples["x"] @ params["linear"]["w"] + params["linear"]["b"]
  probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  for name, expected in (
    ("label", examples["label"]),
    ("prediction", logits.argmax(1)),
    ("confidence", probabilities.max(1)),
  ):
    values = means[f"example_{name}"][index >= 0]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
  assert metrics.scalars(means).keys() == {"loss", "accuracy"}


def test_the_averaged_parameters_are_evaluated(examples, params):
  zeros = jax.tree.map(np.zeros_like, params)
  means = evaluate(examples, 8, 2, zeros, ema_params=params)
  assert_close(means, expected_means(examples, params))


def test_the_running_statistics_are_used(examples, params):
  means = evaluate(examples, 8, 2, params, shift=0.7)
  assert_close(means, expected_means(examples, params, shift=0.7))


def test_each_dataset_is_evaluated_under_its_name(examples, params):
  mesh, task = step.make_mesh(2), Classifier()
  eval_step = evaluation.make_eval_step(
    step.model_of(task, "float32"), task, mesh
  )
  other = {**examples, "label": (examples["label"] + 1) % CLASSES}
  means = evaluation.evaluate_all(
    eval_step,
    make_state(params, mesh),
    {"test": batches(examples, 8), "real": batches(other, 16)},
    mesh,
  )
  assert list(means) == ["test", "real"]
  assert_close(means["test"], expected_means(examples, params))
  assert_close(means["real"], expected_means(other, params))


def test_few_batches_wait_on_the_device(examples, params, monkeypatch):
  mesh, task = step.make_mesh(1), Classifier()
  model_step = evaluation.make_eval_step(
    step.model_of(task, "float32"), task, mesh
  )
  waiting, most = [], []

  def eval_step(*arguments):
    waiting.append(None)
    most.append(len(waiting))
    return model_step(*arguments)

  monkeypatch.setattr(step, "num_steps_ahead", lambda: 2)
  monkeypatch.setattr(
    evaluation.jax, "block_until_ready", lambda _: waiting.pop()
  )
  state, datasets = make_state(params, mesh), {"test": batches(examples, 8)}
  evaluation.evaluate_all(eval_step, state, datasets, mesh)
  assert most == [1, 2, 3, 3, 3]


def test_a_second_pass_gives_the_same_means(examples, params):
  mesh, task = step.make_mesh(1), Classifier()
  eval_step = evaluation.make_eval_step(
    step.model_of(task, "float32"), task, mesh
  )
  state, datasets = make_state(params, mesh), {"test": batches(examples, 8)}
  first, second = (
    evaluation.evaluate_all(eval_step, state, datasets, mesh) for _ in range(2)
  )
  jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_progress_bar_counts_batches_and_is_cleared(
  examples, params, capfd
):
  mesh, task = step.make_mesh(1), Classifier()
  eval_step = evaluation.make_eval_step(
    step.model_of(task, "float32"), task, mesh
  )
  state, datasets = make_state(params, mesh), {"test": batches(examples, 8)}
  evaluation.evaluate_all(eval_step, state, datasets, mesh)
  assert capfd.readouterr() == ("", "")
  evaluation.evaluate_all(eval_step, state, datasets, mesh, show_progress=True)
  printed = capfd.readouterr().err
  assert "evaluate" in printed
  assert "/5" in printed
  assert printed.endswith("\r"), "the bar was not cleared"


@pytest.mark.parametrize(
  ("num_microbatches", "size"), [(1, 4), (2, 2), (3, 1), (8, 1)]
)
def test_the_model_sees_a_microbatch_of_one_device(
  examples, params, num_microbatches, size
):
  mesh, task, sizes = step.make_mesh(), Classifier(), []
  model = step.model_of(task, "float32")

  def apply(params, state, rng, batch, is_training):
    sizes.append(len(batch["x"]))
    return model.apply(params, state, rng, batch, is_training)

  state, datasets = make_state(params, mesh), batches(examples, 4 * mesh.size)
  batch = step.place_batch(next(iter(datasets)), mesh)
  expected = evaluation.make_eval_step(model, task, mesh)(
    state.params, state.net_state, batch
  )
  eval_step = evaluation.make_eval_step(
    model._replace(apply=apply), task, mesh, num_microbatches=num_microbatches
  )
  metrics = eval_step(state.params, state.net_state, batch)
  assert set(sizes) == {size}
  chex.assert_trees_all_close(metrics, expected, rtol=1e-6)


def test_an_empty_dataset_is_a_user_error(params):
  mesh = step.make_mesh(1)
  with pytest.raises(UserError, match="empty dataset"):
    evaluation.evaluate_all(
      None, make_state(params, mesh), {"eval": tiny_runs.Batches()}, mesh
    )


@pytest.mark.parametrize(
  ("batch_size", "devices", "expected"),
  [(16, 8, 16), (17, 8, 24), (1, 8, 8), (5, 1, 5), (3, 2, 4)],
)
def test_the_batch_size_is_rounded_up_to_a_multiple_of_the_devices(
  tiny_config, batch_size, devices, expected
):
  tiny_config.batch_size = batch_size
  mesh = step.make_mesh(devices)
  assert evaluation.batch_size(tiny_config, mesh) == expected

"""Tests of behavioral cloning on sets of entities."""

import jax
import numpy as np
import pytest
import task_helpers
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import starcraft
from perceiver_jax.data.starcraft import features
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import registry
from perceiver_jax.training import loop, step

pytestmark = pytest.mark.usefixtures("compile_once")
_SLOTS = 24


def _batch(task, size=4):
  examples = [
    task.preprocess(task.source("eval")[i], None) for i in range(size)
  ]
  batch = {k: np.stack([e[k] for e in examples]) for k in examples[0]}
  index = np.arange(size, dtype=np.int32)
  return {**batch, "index": index, "mask": np.ones(size, np.float32)}


def _logits(batch, seed=0):
  rng = np.random.default_rng(seed)
  size = len(batch["action"])
  pointer = lambda: np.where(
    batch["input_mask"], rng.normal(size=(size, _SLOTS)), -1e30
  )
  return {
    "action": rng.normal(size=(size, 3)),
    "selected": pointer(),
    "target": pointer(),
  }


def _cross_entropy(logits, label):
  logits = logits - logits.max()
  return np.log(np.exp(logits).sum()) - logits[label]


def test_the_loss_is_the_sum_of_the_known_cross_entropies():
  task = task_helpers.make_task(starcraft)
  batch = _batch(task)
  batch["target"] = np.array([-1, 3, -1, 0])
  batch["selected"][0] = -1
  logits = _logits(batch)
  total, count = task.loss(task_helpers.outputs(logits), batch)["loss"]
  expected = sum(
    _cross_entropy(logits[name][i], batch[name][i])
    for name in features.TARGETS
    for i in range(4)
    if batch[name][i] >= 0
  )
  np.testing.assert_allclose(total, expected, rtol=1e-5)
  assert count == 4


def test_accuracies_leave_out_what_is_unknown():
  task = task_helpers.make_task(starcraft)
  batch = _batch(task)
  logits = _logits(batch)
  # All right, but for the target of the second observation.
  for name in features.TARGETS:
    logits[name][np.arange(4), batch[name]] = 10
  wrong = (batch["target"][1] + 1) % batch["input_mask"][1].sum()
  logits["target"][1, wrong] = 20
  batch["target"][2] = batch["selected"][3] = -1
  batch["group"] = np.array([0, 1, 2, 1])
  metrics = task.metrics(task_helpers.outputs(logits), batch)
  pairs = {k: tuple(map(float, v)) for k, v in metrics.items() if k != "loss"}
  assert pairs == {
    "command_accuracy": (3, 4),
    "action_accuracy": (4, 4),
    "selected_accuracy": (3, 3),
    "target_accuracy": (2, 3),
    "target_accuracy/nearest": (1, 1),
    "target_accuracy/weakest": (1, 2),
    "target_accuracy/protect": (0, 0),
  }


def test_padding_of_the_last_batch_counts_nowhere():
  task = task_helpers.make_task(starcraft)
  batch = _batch(task)
  logits = _logits(batch)
  before = task.metrics(
    task_helpers.outputs({k: v[:2] for k, v in logits.items()}),
    {k: v[:2] for k, v in batch.items()},
  )
  batch["mask"][2:] = 0
  after = task.metrics(task_helpers.outputs(logits), batch)
  for name, pair in before.items():
    np.testing.assert_allclose(after[name], pair, rtol=1e-5)


@pytest.fixture(scope="module", params=["small", "small_transformer"])
def model(request):
  """Returns a task, its parameters and its forward pass."""
  task = task_helpers.make_task(starcraft, f"{request.param},smoke")
  transformed = step.model_of(task, "float32")
  params, state = task_helpers.random_variables(
    transformed, task.dummy_batch(), 0.2
  )
  forward = jax.jit(
    lambda batch: transformed.apply(params, state, None, batch, False)[0]
  )
  return task, forward


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 99))
def test_the_order_of_entities_does_not_matter(model, seed):
  task, forward = model
  batch = _batch(task)
  order = np.random.default_rng(seed).permutation(_SLOTS)
  place = np.argsort(order)  # The new place of each entity.
  moved = dict(batch)
  for name in ("categories", "numbers", "positions", "input_mask"):
    moved[name] = batch[name][:, order]
  for name in ("selected", "target"):
    moved[name] = place[batch[name]]
  out, expected = forward(moved), forward(batch)
  np.testing.assert_allclose(
    out.logits["action"], expected.logits["action"], atol=1e-4
  )
  for name in ("selected", "target"):
    np.testing.assert_allclose(
      out.logits[name], expected.logits[name][:, order], rtol=1e-3, atol=1e-3
    )
  for name, value in task.metrics(expected, batch).items():
    np.testing.assert_allclose(
      task.metrics(out, moved)[name], value, rtol=1e-3, atol=1e-3
    )


def test_no_entity_is_selected_in_the_padding(model):
  task, forward = model
  batch = _batch(task)
  batch["input_mask"][0] = np.arange(_SLOTS) < 3
  probabilities = task.probabilities(forward(batch).logits)
  for name in ("selected", "target"):
    assert not np.any(np.asarray(probabilities[name])[~batch["input_mask"]])
    np.testing.assert_allclose(probabilities[name].sum(-1), 1, rtol=1e-5)


def test_an_observation_without_entities_is_finite(model):
  task, forward = model
  batch = _batch(task)
  batch["input_mask"][1] = False
  batch["selected"][1] = batch["target"][1] = -1
  outputs = forward(batch)
  total, _ = task.loss(outputs, batch)["loss"]
  assert np.isfinite(total)
  assert all(np.isfinite(x).all() for x in outputs.logits.values())


def test_more_entities_than_slots_are_an_error():
  task = task_helpers.make_task(starcraft, data__num_entities=11)
  with pytest.raises(UserError, match=r"11 slots; raise config.data.num_ent"):
    _batch(task)


def test_another_number_of_actions_is_an_error():
  with pytest.raises(UserError, match=r"num_actions is 5 .* 3 actions"):
    task_helpers.make_task(starcraft, model__decoder__num_actions=5)


def test_configs_have_the_papers_sizes():
  io, transformer = (
    starcraft.get_config(name) for name in ("perceiver_io", "transformer")
  )
  assert io.data.num_entities == transformer.data.num_entities == 512
  assert io.model.encoder.num_latents == 32
  assert io.model.encoder.num_self_attends_per_block == 3
  assert io.model.adapter.num_channels == 128
  encoder = transformer.model.encoder
  assert (encoder.num_layers, encoder.num_heads) == (3, 2)
  assert transformer.model.adapter.num_channels == 2 * 128
  assert encoder.widening_factor * 256 == 1024
  for config in (io, transformer):
    assert config.model.decoder.num_embedding_channels == 256
    assert config.model.adapter.num_features == 256


@pytest.mark.slow
def test_a_smoke_run_trains_and_is_evaluated(tmp_path, no_report):
  config = task_helpers.make_config(
    starcraft, "small,smoke", num_steps=2, eval_every_steps=2
  )
  task = registry.make_task(config)
  outcome = loop.Trainer(config, task, tmp_path, num_devices=1).run()
  assert (outcome.stopped, outcome.step) == ("", 2)
  results = outcome.results["metrics"]
  assert task.primary_metric in results
  assert np.isfinite(results["eval/loss"])


def _report(variant):
  """Returns the section of the report of an untrained model, and the task."""
  task = task_helpers.make_task(starcraft, variant)
  batch = _batch(task)
  model = step.model_of(task, "float32")
  variables = task_helpers.random_variables(model, task.dummy_batch())
  outputs, _ = jax.jit(model.apply, static_argnums=(4, 5))(
    *variables, None, batch, False, "logits"
  )
  outputs = jax.tree.map(np.asarray, outputs)
  batch["mask"][-1] = 0
  (section,) = task.report_sections(outputs, batch, {})
  images = task.summary_images(outputs, batch)
  return task, outputs, batch, section, images


@pytest.mark.parametrize("variant", ["small,smoke", "small_transformer,smoke"])
def test_the_report_draws_battles_with_attention(variant):
  task, outputs, batch, section, images = _report(variant)
  assert str(section.body).count("<figure") == 3
  assert images["commands"].shape[2] == 3
  has_latents = "transformer" not in variant
  assert ("through the latents" in section.description) == has_latents
  battles = task._battles(outputs, batch)
  assert list(battles) == [0, 1, 2]
  for i, battle in battles.items():
    example = task.source("eval")[i]
    count = len(example["x"])
    np.testing.assert_allclose(
      battle.positions, np.stack([example["x"], example["y"]], 1), atol=1e-3
    )
    np.testing.assert_array_equal(battle.alliances, example["alliance"])
    np.testing.assert_array_equal(battle.unit_types, example["unit_type"])
    np.testing.assert_allclose(battle.health, example["health_ratio"])
    assert battle.recorded == (example["selected"], example["target"])
    assert max(battle.predicted) < count
    assert battle.attention.shape == (count,)
    np.testing.assert_allclose(battle.attention.sum(), 1, rtol=1e-4)
    if not has_latents:
      assert np.argmax(battle.attention) == battle.predicted.target


def test_nothing_is_drawn_of_a_batch_that_can_not_be_read():
  task = task_helpers.make_task(starcraft)
  batch = {**_batch(task), "mask": np.zeros(4, np.float32)}
  outputs = task_helpers.outputs(_logits(batch))
  assert task.report_sections(outputs, batch, {}) == []
  assert task.summary_images(outputs, batch) == {}


def test_categories_and_numbers_are_decoded():
  observation = {
    "unit_type": np.array([0, 7, 255]),
    "alliance": np.array([1, -1, 4]),
    "x": np.zeros(3),
    "y": np.zeros(3),
    "health_ratio": np.array([0.25, 1, -1]),
    "is_flying": np.array([0, 1, -1]),
  }
  encoded = features.encode(observation)
  for name in ("unit_type", "alliance", "is_flying"):
    found = features.category(encoded["categories"], name)
    np.testing.assert_array_equal(found, observation[name])
  found = features.category(encoded["categories"], "was_targeted")
  np.testing.assert_array_equal(found, [-1, -1, -1])
  found = features.number(encoded["numbers"], "health_ratio")
  np.testing.assert_allclose(found, [0.25, 1, 0])

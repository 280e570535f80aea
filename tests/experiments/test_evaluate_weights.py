"""Weights of any kind evaluated on the data of a config."""

import hashlib
import importlib
import json
import pickle

import jax
import numpy as np
import pytest
import tiny_runs as runs
import tiny_weights

from perceiver_jax import weights
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training import restore, step
from perceiver_jax.training.logs import results

pytestmark = pytest.mark.usefixtures("compile_once")

VARIANTS = {
  "imagenet": "conv,smoke",
  "masked_lm": "smoke",
  "optical_flow": "conv,smoke",
  "kinetics": "smoke",
  "glue": "cola,smoke",
}


def config_flag(name, variant=None):
  variant = VARIANTS[name] if variant is None else variant
  return f"--config={runs.ROOT / 'configs' / name}.py:{variant}"


def get_config(name, variant=None):
  module = importlib.import_module(f"configs.{name}")
  return module.get_config(VARIANTS[name] if variant is None else variant)


def random_weights(config):
  """Returns random weights of the model of a config, and statistics."""
  task = tasks.make_task(config)
  abstract = restore.abstract_state(config, task, step.make_mesh(1))
  rng = np.random.default_rng(0)
  draw = lambda x: np.asarray(0.3 * rng.normal(size=x.shape), x.dtype)
  params = jax.tree.map(draw, abstract.params)
  # Running variances are positive.
  state = jax.tree.map(lambda x: abs(draw(x)), abstract.net_state)
  return weights.Weights(config.model.to_dict(), params, state)


def expected_metrics(config, loaded):
  """Returns the metrics of all examples in a single batch on one device."""
  task = tasks.make_task(config)
  model = step.model_of(task, config.precision)

  @jax.jit
  def evaluate(params, state, batch):
    outputs, _ = model.apply(params, state, None, batch, False)
    return task.metrics(outputs, batch)

  found, counts = {}, {}
  for name, source in task.eval_sources().items():
    (batch,) = task.eval_dataset(source, global_batch=len(source))
    sums = evaluate(loaded.params, loaded.state, batch)
    found[name] = metrics_lib.means(
      {name: pair for name, pair in sums.items() if pair[1] > 0}
    )
    counts[name] = len(source)
  return results.flat_scalars(task.finalize_metrics(found)), counts


def evaluated(call, path, *flags, out):
  done = call("evaluate", f"--weights={path}", *flags, f"--out={out}")
  assert (done.status, done.err) == (0, ""), done.err
  assert f"written to {out}" in done.out
  return json.loads(out.read_text())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_example_counts_once(call, tmp_path, name):
  config = get_config(name)
  loaded = random_weights(config)
  path, out = tmp_path / "model.safetensors", tmp_path / "new" / "out.json"
  weights.save(path, loaded)
  record = evaluated(call, path, config_flag(name), out=out)
  metrics, counts = expected_metrics(config, loaded)
  assert record["metrics"] == pytest.approx(metrics, rel=1e-4, abs=1e-6)
  assert record["num_examples"] == counts
  assert record["task"] == config.task
  assert record["config"].endswith(f"{name}.py")
  assert record["variant"] == VARIANTS[name]
  assert record["weights"] == str(path)
  assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
  assert record["published"] == {}
  assert record["differences"] == []
  assert record["device"] == "8 x cpu"
  assert "jax" in record["versions"]

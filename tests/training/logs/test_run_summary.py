"""Tests of the summary that is printed when a run starts."""

import re
import types

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

from perceiver_jax.models import flops
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import step
from perceiver_jax.training.logs import run_summary


def summarize(config, devices=2):
  task, mesh = tasks.make_task(config), step.make_mesh(devices)
  model = step.model_of(task, config.precision)
  init = step.make_init(model, optax.sgd(0.1), 0, use_ema=False)
  abstract = step.abstract_state(init, task.dummy_batch(), mesh)
  return (
    run_summary.summarize(config, task, model, abstract, mesh),
    task,
    abstract,
  )


def compiled_of(arguments, temporary):
  """Stands in for the memory statistics of a compiled step."""
  stats = types.SimpleNamespace(
    argument_size_in_bytes=arguments, temp_size_in_bytes=temporary
  )
  return types.SimpleNamespace(memory_analysis=lambda: stats)


# What is computed for the summary.


def test_summary_of_a_run(tiny_config):
  tiny_config.num_microbatches = 4
  tiny_config.precision = "bfloat16"
  summary, task, abstract = summarize(tiny_config)
  assert summary.devices == (
    f"2 x {jax.devices()[0].device_kind} (cpu), 1 process(es),"
    f" jax {jax.__version__}"
  )
  assert summary.batch == "16 = 2 device(s) x 4 microbatch(es) x 2"
  assert summary.examples_per_epoch == task.num_train_examples() == 1437
  assert summary.batch_size == 16
  assert summary.precision == "bfloat16"
  assert summary.peak_flops == 0
  assert summary.params is abstract.params


def test_a_step_costs_three_forward_passes_of_the_batch(tiny_config):
  summary, task, abstract = summarize(tiny_config)
  model = step.model_of(task, "float32")
  batch = {
    # One device's part of the batch.
    k: np.repeat(v, tiny_config.batch_size // 2, axis=0)
    for k, v in task.dummy_batch().items()
  }
  forward = flops.count_flops(
    lambda p, b: model.apply(p, {}, None, b, False)[0], abstract.params, batch
  )
  assert summary.flops_per_step == 3 * 2 * forward > 0


def test_attention_implementations_are_listed(tiny_config):
  assert summarize(tiny_config)[0].attention == (
    "unprojected 4 x 64, xla 4 x 4, unprojected 1 x 4"
  )


def test_the_peak_is_that_of_all_devices(tiny_config, monkeypatch):
  monkeypatch.setattr(run_summary, "peak_flops", lambda kind: 5.0)
  assert summarize(tiny_config, devices=4)[0].peak_flops == 20.0


@pytest.mark.parametrize(
  ("kind", "peak"),
  [
    ("TPU v3", 61.5e12),
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5", 459e12),
    ("TPU v6 lite", 918e12),
    ("NVIDIA A100-SXM4-40GB", 312e12),
    ("NVIDIA H100 80GB HBM3", 989e12),
    ("cpu", 0.0),
    ("", 0.0),
  ],
)
def test_peak_is_that_of_the_longest_matching_name(kind, peak):
  assert run_summary.peak_flops(kind) == peak


# Numbers of parameters.


@pytest.fixture
def params():
  return {
    "perceiver/encoder/~/block_0/linear": {
      "w": flops.abstract(3, 4),
      "b": flops.abstract(4),
    },
    "perceiver/encoder/latents": {"embeddings": flops.abstract(2, 5)},
    "perceiver/~/decoder": {"scale": jnp.float32(1.0)},
  }


def test_parameters_are_counted_by_array_by_group_and_in_total(params):
  assert run_summary.parameter_table(params) == [
    ("perceiver/encoder/~/block_0/linear/w", (3, 4), 12),
    ("perceiver/encoder/~/block_0/linear/b", (4,), 4),
    ("perceiver/encoder/latents/embeddings", (2, 5), 10),
    ("perceiver/~/decoder/scale", (), 1),
  ]
  assert run_summary.num_parameters(params) == 27
  assert run_summary.grouped_parameters(params) == {
    "perceiver/encoder": 26,
    "perceiver/decoder": 1,
  }
  assert run_summary.grouped_parameters(params, depth=1) == {"perceiver": 27}


# The text of the summary.


@pytest.fixture
def run(params):
  return run_summary.RunSummary(
    devices="8 x TPU v4 (tpu), 2 process(es), jax 0.10.2",
    batch="64 = 8 device(s) x 1 microbatch(es) x 8",
    examples_per_epoch=1437,
    batch_size=64,
    flops_per_step=404.3e9,
    peak_flops=0.0,
    precision="float32",
    attention="chunked 4 x 64",
    params=params,
  )


def rows_of(text):
  """Returns values by name, which two or more spaces separate."""
  rows = (re.split(r"\s{2,}", line.strip()) for line in text.splitlines())
  return dict(rows)


def test_the_text_of_a_new_run(run):
  compiled = compiled_of(1_500_000, 2_500_000_000)
  text = run_summary.text(run, 10_000, 0, compiled, 12.34)
  rows = rows_of(text)
  assert rows["devices"] == run.devices
  assert rows["batch"] == run.batch
  assert rows["steps"] == "10,000 = 445.4 epochs of 1,437 examples"
  assert rows["precision"] == "float32"
  assert rows["operations"] == "404.3 GFLOP a step, by count"
  assert rows["memory"] == (
    "2.502 GB a device (1.5 MB arguments, 2.5 GB temporary)"
  )
  assert rows["compiled in"] == "12.3 s"
  assert rows["parameters"] == "27"
  assert rows["perceiver/encoder"] == "26"
  assert rows["perceiver/decoder"] == "1"
  assert "resumed from" not in rows


def test_the_text_of_a_resumed_run_has_the_step(run):
  text = run_summary.text(run, 10_000, 2_000, compiled_of(1, 1), 1.0)
  assert rows_of(text)["resumed from"] == "step 2,000"


def test_the_text_of_a_finished_run_omits_compilation(run):
  text = run_summary.text(run, 10_000, 10_000, None, 0.0)
  assert not {"memory", "compiled in"} & rows_of(text).keys()


def test_values_are_in_one_column(run):
  text = run_summary.text(run, 10_000, 2_000, compiled_of(1, 1), 1.0)
  lines = [s for s in text.splitlines() if not s.startswith("    ")]
  column = lines[0].index(run.devices)
  for line in lines:
    assert line[column - 2 : column] == "  "
    assert line[column] != " "


def test_the_memory_of_a_compiled_program():
  compiled = jax.jit(lambda x: x + 1).lower(flops.abstract(1000)).compile()
  assert "4 kB arguments" in run_summary.memory_text(compiled)


def test_unknown_memory():
  compiled = types.SimpleNamespace(memory_analysis=lambda: None)
  assert run_summary.memory_text(compiled) == "unknown on this backend"


@pytest.mark.parametrize(
  ("number", "text"),
  [
    (0, "0"),
    (7, "7"),
    (999, "999"),
    (1000, "1 k"),
    (1234.56, "1.235 k"),
    (48_440_627, "48.44 M"),
    (404.3e9, "404.3 G"),
    (-2.5e12, "-2.5 T"),
    (3e15, "3 P"),
    (5e18, "5000 P"),
  ],
)
def test_numbers_are_rounded_to_four_digits_with_a_prefix(number, text):
  assert run_summary.human(number) == text


def test_numbers_can_have_a_unit():
  assert run_summary.human(404.3e9, "FLOP") == "404.3 GFLOP"
  assert run_summary.human(12, "B") == "12 B"

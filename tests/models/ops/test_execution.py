"""Tests of the settings for computing a model."""

import dataclasses

import jax
import pytest

from perceiver_jax.models.ops import execution
from perceiver_jax.models.ops.execution import Execution


@pytest.mark.parametrize(
  "field", sorted({*execution.CHOICES} - {"scan_layers"})
)
def test_an_unknown_value_is_refused_with_the_choices(field):
  choices = ", ".join(map(str, execution.CHOICES[field]))
  message = f"^execution.{field} 'fastest': choose one of {choices}$"
  with pytest.raises(ValueError, match=message):
    Execution(**{field: "fastest"})
  with pytest.raises(ValueError, match=message):
    execution.PLAIN.replace(**{field: "fastest"})


def test_every_field_has_choices():
  fields = [field.name for field in dataclasses.fields(Execution)]
  assert list(execution.CHOICES) == fields


def test_an_execution_is_frozen():
  with pytest.raises(dataclasses.FrozenInstanceError):
    Execution().attention = "xla"


def test_choices_may_be_strings():
  choices = {"scan_layers": "False", "remat": "dots"}
  expected = Execution(scan_layers=False, remat="dots")
  assert Execution.from_choices(choices) == expected


def test_an_unknown_field_is_refused_with_the_fields():
  message = f"^execution.speed: choose one of {', '.join(execution.CHOICES)}"
  with pytest.raises(ValueError, match=message):
    Execution.from_choices({"speed": "fast"})


@pytest.mark.parametrize("value", ["always", "1", ""])
def test_scan_layers_is_true_or_false(value):
  with pytest.raises((ValueError, TypeError)):
    Execution.from_choices({"scan_layers": value})


@pytest.mark.parametrize(
  ("platform", "linear", "norm", "fuses_qkv"),
  [
    ("cpu", True, True, False),
    ("gpu", False, False, True),
    ("tpu", False, True, False),
  ],
)
def test_auto_follows_the_platform_compiled_for(
  platform, linear, norm, fuses_qkv
):
  target = Execution(platform=platform)
  assert target.uses_custom_linear_gradients == linear
  assert target.uses_custom_norm_gradients == norm
  assert target.fuses_qkv == fuses_qkv
  for choice in ("always", "never"):
    chosen = target.replace(custom_gradients=choice)
    assert chosen.uses_custom_linear_gradients == (choice == "always")
    assert chosen.uses_custom_norm_gradients == (choice == "always")
  assert not target.replace(fuse_qkv="never").fuses_qkv


def test_auto_is_the_platform_that_jax_runs_on():
  assert Execution().target == jax.default_backend()

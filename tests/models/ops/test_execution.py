"""The record of how a model is computed."""

import dataclasses

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


def test_the_record_is_frozen():
  with pytest.raises(dataclasses.FrozenInstanceError):
    Execution().attention = "xla"

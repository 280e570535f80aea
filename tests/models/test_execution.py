"""Choices of how to compute: checked, scoped, told."""

import pytest

from perceiver_jax.models import execution


@pytest.mark.parametrize("field", execution.CHOICES)
def test_unknown_value_is_refused_by_field_and_values(field):
  known = ", ".join(execution.CHOICES[field])
  message = f"^execution.{field} 'fastest': choose one of {known}$"
  before = execution.current()
  with (
    pytest.raises(ValueError, match=message),
    execution.use(**{field: "fastest"}),
  ):
    pass
  wrong = execution.PLAIN._replace(**{field: "fastest"})
  with pytest.raises(ValueError, match=message), execution.use(wrong):
    pass
  assert execution.current() == before


def test_unknown_field_is_refused_and_fields_are_named():
  known = ", ".join(execution.Execution._fields)
  with (
    pytest.raises(ValueError, match=f"^execution.speed: choose one of {known}"),
    execution.use(speed="fast"),
  ):
    pass


def test_every_field_has_choices_and_starts_from_one():
  assert tuple(execution.CHOICES) == execution.Execution._fields
  for how in (execution.Execution(), execution.PLAIN):
    for field, value in how._asdict().items():
      assert value in execution.CHOICES[field]


def test_choices_nest_and_are_restored():
  assert execution.current() == execution.Execution()
  with execution.use(execution.PLAIN, depth="scan"):
    outer = execution.current()
    assert outer == execution.PLAIN._replace(depth="scan")
    with execution.use(attention="chunked"):
      assert execution.current() == outer._replace(attention="chunked")
    assert execution.current() == outer
  assert execution.current() == execution.Execution()


def test_choices_are_restored_after_an_exception():
  with pytest.raises(KeyError), execution.use(execution.PLAIN):
    raise KeyError
  assert execution.current() == execution.Execution()


def test_notes_reach_the_innermost_collector_once_and_in_order():
  execution.note("nobody listens")
  with execution.noted() as outer:
    execution.note("b")
    with execution.noted() as inner:
      execution.note("c")
    execution.note("a")
    execution.note("b")
  execution.note("nobody listens")
  assert list(outer) == ["b", "a"]
  assert list(inner) == ["c"]

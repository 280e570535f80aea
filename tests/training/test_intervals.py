import pytest
import tiny_runs as runs

from perceiver_jax.training import intervals

NUM_STEPS = 12


def steps_due(steps_per_epoch=5.0, **leaves):
  """Returns the steps at which a run of 12 steps logs, evaluates and saves."""
  config = runs.tiny_config(**leaves)
  due = {
    step: intervals.due(config, step, NUM_STEPS, steps_per_epoch)
    for step in range(1, NUM_STEPS + 1)
  }
  return intervals.Due(
    *([step for step, flags in due.items() if flags[i]] for i in range(3))
  )


def test_each_interval_has_its_own_steps():
  due = steps_due()
  assert due == intervals.Due([4, 8, 12], [5, 10, 12], [3, 6, 9, 12])


def test_everything_is_due_after_the_last_step():
  due = steps_due(log__every_steps=100, eval_every_steps=0)
  assert due.log == due.evaluate == [NUM_STEPS]


def test_intervals_of_steps_and_epochs_add_up():
  due = steps_due(eval_every_steps=6, eval_every_epochs=1.0)
  assert due.evaluate == [5, 6, 10, 12]


@pytest.mark.parametrize(
  ("steps_per_epoch", "expected"),
  [(10 / 3, [4, 7, 10, 12]), (0.4, [*range(1, 13)])],
)
def test_epochs_of_fractional_steps_do_not_drift(steps_per_epoch, expected):
  due = steps_due(steps_per_epoch, eval_every_steps=0, eval_every_epochs=1.0)
  assert due.evaluate == expected

"""Tests of what a run prints to a log and to a terminal."""

import io
import sys

import pytest

from perceiver_jax.training.logs.console import Console


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.fixture
def open_terminal(monkeypatch):
  """Replaces stdout; called in tests, since pytest resets it after fixtures."""

  def open_():
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    return screen

  return open_


def test_log_file_gets_one_line_per_interval(capsys):
  console = Console(20_000)
  console.step()
  console.interval(
    5_000, {"loss": 1.23456, "examples_per_second": 12_345.6}, "3h12m"
  )
  console.close()
  assert not console.draws
  assert capsys.readouterr().out == (
    " 25% [#####---------------] step 5,000/20,000"
    "  loss 1.235  examples_per_second 12,346  eta 3h12m\n"
  )


@pytest.mark.parametrize(
  ("step", "bar"),
  [
    (0, "  0% [" + "-" * 20 + "]"),
    (99, " 99% [" + "#" * 19 + "-]"),
    (100, "100% [" + "#" * 20 + "]"),
  ],
)
def test_the_bar_is_full_only_at_the_last_step(capsys, step, bar):
  Console(100).interval(step, {}, "0s")
  assert capsys.readouterr().out.startswith(bar)


@pytest.mark.parametrize(
  ("value", "text"),
  [(0.000012345, "1.234e-05"), (-1234.5, "-1,234"), (float("nan"), "nan")],
)
def test_numbers_are_short(capsys, value, text):
  Console(1).interval(1, {"loss": value}, "0s")
  assert f"loss {text}  eta" in capsys.readouterr().out


def test_a_run_of_zero_steps_is_printed(capsys):
  Console(0).interval(0, {}, "0s")
  assert "step 0/0" in capsys.readouterr().out


def test_other_processes_print_nothing(capsys):
  console = Console(10, enabled=False)
  console.step()
  console.say("hello")
  console.interval(5, {"loss": 1.0}, "1s")
  console.close()
  assert capsys.readouterr() == ("", "")
  assert not console.draws


def test_other_processes_draw_no_bar(open_terminal):
  terminal = open_terminal()
  console = Console(10, enabled=False)
  console.step()
  console.close()
  assert terminal.getvalue() == ""


def test_bar_on_a_terminal_starts_at_the_resumed_step(open_terminal):
  terminal = open_terminal()
  console = Console(10, start=4)
  assert console.draws
  for _ in range(6):
    console.step()
  console.close()
  assert "4/10" in terminal.getvalue()
  assert "100%" in terminal.getvalue()


def test_lines_are_printed_above_the_bar_and_metrics_in_it(open_terminal):
  terminal = open_terminal()
  console = Console(10)
  console.interval(5, {"loss": 0.5, "grad_norm": 7.0}, "1s")
  console.say("step 5: eval/accuracy 0.9")
  console.close()
  printed = terminal.getvalue()
  assert "step 5: eval/accuracy 0.9\n" in printed
  assert "loss=0.5" in printed
  assert "grad_norm" not in printed

"""Tests of the checks of compiled steps."""

import pytest

from scripts.compile_ahead import __main__, checks

_CLEAN = """\
HloModule jit_step, input_output_alias={ {0}: (0, {}, may-alias), \
{1}: (1, {}, must-alias) }, entry_computation_layout={...}

ENTRY %main (a: f32[8,16]) -> f32[8,16] {
  %a = f32[8,16]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %sum = f32[8,16]{1,0} all-reduce(%a), replica_groups={{0,1}}
}
"""

_COLLECTIVE = "unexpected collective"


def _with(line):
  return _CLEAN.replace("  ROOT", f"  {line}\n  ROOT")


def _count(text):
  return checks.count(text, ["all-reduce"])


def _line(counts, donated, expected):
  return checks.line(
    {"counts": counts, "donated": donated, "expected": expected}
  )


def test_a_clean_step_passes():
  counts = _count(_CLEAN)
  assert not any(counts.values())
  assert checks.num_donated(_CLEAN) == 2
  assert _line(counts, 2, 2) == (
    "2 state arrays donated, no host transfer, no float64, no unexpected"
    " collective, no dynamic shape"
  )
  assert _line(counts, 0, 0).startswith("no host transfer")


@pytest.mark.parametrize(
  ("line", "problem"),
  [
    ("%o = token[] outfeed(%a, %t)", "host transfer"),
    ("%s = (f32[8]{0}, u32[], token[]) send(%a, %t)", "host transfer"),
    (
      '%c = f32[8]{0} custom-call(%a), custom_call_target="MoveToHost"',
      "host transfer",
    ),
    ("%h = f32[8,16]{1,0:T(8,128)S(5)} copy(%a)", "host transfer"),
    ("%d = f64[8,16]{1,0} convert(%a)", "float64"),
    ("%g = f32[16,16]{1,0} all-gather(%a), dimensions={0}", _COLLECTIVE),
    (
      "%g = (f32[8]{0}, f32[16]{0}) all-gather-start(%a), dimensions={0}",
      _COLLECTIVE,
    ),
    ("%n = f32[<=8,16]{1,0} copy(%a)", "dynamic shape"),
  ],
)
def test_what_should_not_be_there_counts(line, problem):
  counts = _count(_with(line))
  assert {name: n for name, n in counts.items() if n} == {problem: 1}
  assert _line(counts, 2, 2) == f"WRONG: 1 x {problem}"


def test_collectives_that_the_step_needs_do_not_count():
  text = _with("%g = f32[16,16]{1,0} all-gather(%a), dimensions={0}")
  assert not any(checks.count(text, ["all-reduce", "all-gather"]).values())


def test_arguments_that_jax_drops_need_not_be_donated():
  text = _with("%b = f32[8,16]{1,0} parameter(1)")
  assert checks.num_to_donate(text, num_state=1, num_batch=1) == 1
  assert checks.num_to_donate(text, num_state=2, num_batch=1) == 1
  assert checks.num_to_donate(text, num_state=2, num_batch=0) == 2
  assert checks.num_to_donate(text, num_state=0, num_batch=0) == 0


def test_a_program_that_fails_a_check_has_another_exit_status():
  checked = {"counts": _count(_CLEAN), "donated": 2, "expected": 2}
  result = {"exceeds_by": 0, "checks": checked}
  assert __main__.exit_status(result) == 0
  assert __main__.exit_status({"exceeds_by": 1}) == 1
  checked["counts"]["float64"] = 3
  assert __main__.exit_status(result) == 1


def test_state_that_is_kept_twice_is_reported():
  text = _CLEAN.replace(", {1}: (1, {}, must-alias)", "")
  donated = checks.num_donated(text)
  assert _line(_count(text), donated, 2) == (
    "WRONG: 1 of 2 state arrays not donated"
  )

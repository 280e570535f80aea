"""The page of the table of compiled train steps, in Markdown."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from perceiver_jax.training.logs.run_summary import human
from scripts.compile_ahead import checks, variants

_HEAD = """\
# Train steps compiled for TPUs

    python -m scripts.compile_ahead.table --out=DIR --page=docs/tpu_table.md \\
      --topologies={topologies}

compiles the train step of every variant of every config, at its batch size and
in bfloat16, and writes this page. Memory is exact. The time of a step, and what
follows from it (MFU; hours and chip-hours of the whole run, without evaluations
and without waiting for data), is an estimate of the compiler and not a
measurement; [TPUs](tpu.md) says more. "Compiled in" is processor time.

A batch that does not fit is split into microbatches, and one that the chips do
not divide is compiled for a smaller slice. Variants that differ in their data
alone share a program. For data of one's own there are {classes} classes, and
images or clips have the largest size that the config allows.
"""
_COLUMNS = (
  "| config | chips | parameters | microbatches | memory | step | MFU | run |"
  " chip-hours | compiled in |\n"
  "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def page(
  results: Sequence[tuple[str, str, Mapping[str, Any]]], old: str = ""
) -> str:
  """Returns the page.

  Args:
    results: Config, topology and figures of each row.
    old: A page whose rows stay where there are no figures.
  """
  old_rows = _rows_of(old)
  figures = {(topology, name): row for name, topology, row in results}
  names = dict.fromkeys(name for name, _, _ in results)
  topologies = list(dict.fromkeys(key[0] for key in [*old_rows, *figures]))
  lines = [
    _HEAD.format(topologies=",".join(topologies), classes=variants.NUM_CLASSES)
  ]
  for topology in topologies:
    rows = {}
    for name in names:
      key = (topology, name)
      new = figures.get(key)
      rows[name] = _line(name, new) if new else old_rows.get(key)
    lines += [f"## {topology}", ""]
    if any(rows.values()):
      lines += [_COLUMNS, *filter(None, rows.values()), ""]
    missing = [name for name, line in rows.items() if not line]
    if missing:
      lines += ["Not compiled yet:", "", *_by_file(missing), ""]
  return "\n".join(lines)


def summary(result: Mapping[str, Any]) -> str:
  """Describes a row's figures in a line."""
  if "error" in result:
    return f"failed: {result['error']}"
  if result["exceeds_by"]:
    return f"does not fit: {human(result['exceeds_by'], 'B')} too large"
  return (
    f"{human(sum(result['memory'].values()), 'B')},"
    f" {1e3 * result['estimated_seconds']:.0f} ms,"
    f" MFU {result['estimated_mfu']:.0%}, {result['num_microbatches']}"
    f" microbatch(es), {_checks(result)}"
  )


def _rows_of(page: str) -> dict[tuple[str, str], str]:
  """Returns the rows of a page, by topology and config."""
  rows, topology = {}, ""
  for line in page.splitlines():
    if line.startswith("## "):
      topology = line.removeprefix("## ")
    elif match := re.match(r"\| `(\S+?\.py):?(\S*?)` \|", line):
      rows[topology, f"configs/{match[1]}:{match[2]}"] = line
  return rows


def _line(config: str, result: Mapping[str, Any]) -> str:
  name = _short(config)
  if "error" in result:
    return f"| {name} | failed: {result['error']} |" + " |" * 8
  head = (
    f"| {name} | {result['topology']} |"
    f" {human(result['num_parameters'], '')} | {result['num_microbatches']} |"
  )
  if result["exceeds_by"]:
    return f"{head} {human(result['exceeds_by'], 'B')} too large |" + " – |" * 5
  seconds = result["estimated_seconds"]
  hours = result["num_steps"] * seconds / 3600
  run = f"{_hours(hours)} | {_hours(hours * result['num_devices'])}"
  return (
    f"{head} {human(sum(result['memory'].values()), 'B')} |"
    f" {1e3 * seconds:,.1f} ms | {result['estimated_mfu']:.0%} |"
    f" {run if hours else '– | –'} | {result['compile_cpu_seconds']:.0f} s |"
  )


def _by_file(names: Sequence[str]) -> list[str]:
  """Lists configs, with the variants of a file in one line."""
  variants_of: dict[str, list[str]] = {}
  for name in names:
    file, _, variant = name.removeprefix("configs/").partition(":")
    variants_of.setdefault(file, []).append(variant or "(none)")
  return [f"- `{file}`: {', '.join(v)}" for file, v in variants_of.items()]


def _checks(result: Mapping[str, Any]) -> str:
  checked = result["checks"]
  return checks.line(checked["counts"], checked["donated"], checked["expected"])


def _short(config: str) -> str:
  """Returns `imagenet.py:fourier` for configs/imagenet.py:fourier."""
  return f"`{config.removeprefix('configs/').rstrip(':')}`"


def _hours(hours: float) -> str:
  return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"

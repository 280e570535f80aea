"""The page of the table of compiled train steps, in Markdown."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from perceiver_jax.training.logs.run_summary import human
from scripts.compile_ahead import checks, variants

_HEAD = """\
# Train steps and evaluations compiled for TPUs

    python -m scripts.compile_ahead.table --out=DIR --page=docs/tpu_table.md \\
      --topologies={topologies}

compiles the train step of every variant of every config, and the evaluation of
a batch during training, at the config's batch size and in bfloat16, and writes
this page. Memory is exact, that of queued batches included. Times, and what
follows from them (MFU; hours and chip-hours of the whole run, without
evaluations and without waiting for data), are estimates of the compiler and not
measurements; [TPUs](tpu.md) says more. "Compiled in" is processor time. A
program that fails one of the checks described there says so.

A batch that does not fit is split into microbatches, and one that the chips do
not divide is compiled for a smaller slice. Variants that differ in their data
alone share a program. For data of one's own there are {classes} classes, and
images or clips have the largest size that the config allows.
"""
_COLUMNS = (
  "| config | chips | parameters | microbatches | memory | step | MFU | run |"
  " chip-hours | compiled in | evaluation: memory | batch |\n"
  "| --- | --- |" + " ---: |" * 10
)


class Result(NamedTuple):
  """A row of the table.

  Attributes:
    config: Such as "configs/imagenet.py:fourier".
    topology: Such as "v5e:8x8".
    train: Figures of the train step; none if it was not compiled.
    evaluate: Those of the evaluation.
  """

  config: str
  topology: str
  train: Mapping[str, Any]
  evaluate: Mapping[str, Any]


def page(results: Sequence[Result], old: str = "") -> str:
  """Returns the page.

  Args:
    results: The rows.
    old: A page whose rows stay where there are no figures.
  """
  old_rows = _rows_of(old)
  figures = {(each.topology, each.config): each for each in results}
  names = dict.fromkeys(each.config for each in results)
  topologies = list(dict.fromkeys(key[0] for key in [*old_rows, *figures]))
  lines = [
    _HEAD.format(topologies=",".join(topologies), classes=variants.NUM_CLASSES)
  ]
  for topology in topologies:
    rows = {}
    for name in names:
      key = (topology, name)
      new = figures.get(key)
      has_new = new and (new.train or new.evaluate)
      rows[name] = _line(new) if has_new else old_rows.get(key)
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
  mfu = result.get("estimated_mfu")
  return (
    f"{human(sum(result['memory'].values()), 'B')},"
    f" {1e3 * result['estimated_seconds']:.0f} ms,"
    + (f" MFU {mfu:.0%}," if mfu else "")
    + f" {result['num_microbatches']} microbatch(es),"
    f" {checks.line(result['checks'])}"
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


def _line(result: Result) -> str:
  train, evaluate = result.train, result.evaluate
  known = next((x for x in (train, evaluate) if "topology" in x), {})
  cells = [f"`{result.config.removeprefix('configs/').rstrip(':')}`"]
  cells.append(known.get("topology", "–"))
  cells.append(human(known["num_parameters"], "") if known else "–")
  cells.append(str(known.get("num_microbatches", "–")))
  cells += _memory_and_time(train)
  if "estimated_mfu" in train:
    hours = train["num_steps"] * train["estimated_seconds"] / 3600
    times = (hours, hours * train["num_devices"])
    cells.append(f"{train['estimated_mfu']:.0%}")
    cells += [_hours(x) if x else "–" for x in times]
    cells.append(f"{train['compile_cpu_seconds']:.0f} s")
  else:
    cells += ["–"] * 4
  cells += _memory_and_time(evaluate)
  return f"| {' | '.join(cells)} |"


def _memory_and_time(figures: Mapping[str, Any]) -> tuple[str, str]:
  """Returns a program's memory, or what is wrong with it, and its time."""
  if not figures:
    return "–", "–"
  if "error" in figures:
    return f"failed: {figures['error']}", "–"
  if figures["exceeds_by"]:
    return f"{human(figures['exceeds_by'], 'B')} too large", "–"
  memory = human(sum(figures["memory"].values()), "B")
  if wrong := checks.wrong(figures["checks"]):
    memory += f", WRONG: {wrong}"
  return memory, f"{1e3 * figures['estimated_seconds']:,.1f} ms"


def _by_file(names: Sequence[str]) -> list[str]:
  """Lists configs, with the variants of a file in one line."""
  variants_of: dict[str, list[str]] = {}
  for name in names:
    file, _, variant = name.removeprefix("configs/").partition(":")
    variants_of.setdefault(file, []).append(variant or "(none)")
  return [f"- `{file}`: {', '.join(v)}" for file, v in variants_of.items()]


def _hours(hours: float) -> str:
  return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"

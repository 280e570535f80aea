"""Compiles every variant of every config for TPUs, and tabulates the figures.

  python -m scripts.compile_ahead.table --topologies=v5e:8x8 --out=DIR \
    --page=docs/tpu_table.md

compiles each train step, and then each evaluation in as many microbatches, in
bfloat16, as `scripts.compile_ahead` does, --parallel of them at a time, and
keeps the figures of each in a file of DIR.
What is there is not compiled again, so the command can be stopped and started
again at any time; delete a file to compile its row once more. Rows that differ
in their data alone share a program, which is compiled once unless both start at
the same time. With --nocompile, only the page is written. Rows that have no
figures in DIR stay as they are on the page.

A batch that a topology's chips do not divide, as those of the small variants,
is compiled for the largest slice of the same generation that does.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments import launch
from experiments.predictions import outputs
from perceiver_jax import files
from perceiver_jax.errors import UserError
from scripts.compile_ahead import chips, table_page, variants
from scripts.paper_tables import costs

_SECONDS = 3600  # Longest compilation.
_POLL_SECONDS = 0.5
_INTERRUPTED = (-signal.SIGINT, 128 + signal.SIGINT)


class Row(NamedTuple):
  """A program of a config for a topology, and the file of its figures.

  Attributes:
    config: Such as "configs/imagenet.py:fourier".
    topology: As asked for, such as "v5e:8x8".
    program: "train" or "evaluate".
    folder: Folder of the figures.
  """

  config: str
  topology: str
  program: str
  folder: Path

  @property
  def file(self) -> Path:
    """Returns the file of its figures."""
    names = [_name(self.config), _name(self.topology)]
    if self.program != "train":
      names.append(self.program)
    return self.folder / f"{'-'.join(names)}.json"


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_list("topologies", ["v5e:8x8"], "TPUs, as GENERATION:CHIPS.")
  flags.DEFINE_list(
    "configs", [], "Configs to compile, as configs/FILE.py:VARIANT or a file"
    " for all of its variants; default: all."
  )  # fmt: skip
  flags.DEFINE_bool("compile", True, "Compile what has no figures yet.")
  flags.DEFINE_integer(
    "parallel", 1, "Rows compiled at the same time; each takes up to 6 GB.",
    lower_bound=1,
  )  # fmt: skip
  flags.DEFINE_string("out", None, "Folder of the figures.")
  flags.DEFINE_string("page", None, "Markdown file to write.")


def main(argv: Sequence[str]) -> None:
  """Compiles the rows, and writes their table."""
  launch.no_arguments(argv)
  values = flags.FLAGS
  if not values.out:
    raise UserError("--out is missing; give the folder of the figures")
  folder = files.on_disk(values.out, "--out")
  page = values.page and files.as_path(values.page).expanduser()
  if page:
    outputs.check_writable(page, "another --page")
  for topology in values.topologies:
    chips.check_topology(topology)
    if chips.is_gpu(topology):
      raise UserError(
        f"--topologies={topology}: the table is one of estimated times, and"
        " there are none for GPUs; use scripts.compile_ahead"
      )
  if values.compile:
    chips.prepare_environment(values.topologies[0])
  folder.mkdir(parents=True, exist_ok=True)
  every, chosen = (
    [(config, topology) for topology in values.topologies for config in configs]
    for configs in (configs_named([]), configs_named(values.configs))
  )
  for program in ("train", "evaluate") if values.compile else ():
    rows = [Row(*each, program, folder) for each in chosen]
    todo = [row for row in rows if not row.file.exists()]
    compile_rows(todo, values.parallel)
  results = [
    table_page.Result(
      *each,
      read(Row(*each, "train", folder).file),
      read(Row(*each, "evaluate", folder).file),
    )
    for each in every
  ]
  old = page.read_text(encoding="utf-8") if page and page.exists() else ""
  text = table_page.page(results, old)
  if page:
    files.write_text(page, text)
  else:
    print(text, end="")


def read(path: Path) -> dict[str, Any]:
  """Returns a row's figures; none if it was not compiled.

  Raises:
    UserError: The file is damaged, or holds something else.
  """
  try:
    figures = files.read_json(path) if path.exists() else {}
  except ValueError as error:
    raise UserError(f"{path} is damaged ({error}); delete it") from error
  if not isinstance(figures, dict):
    raise UserError(
      f"{path} holds no figures of compile_ahead; move it elsewhere"
    )
  return figures


def with_fingerprint(folder: str | None, fingerprint: str) -> Path | None:
  """Returns the file of a program's figures in a folder, if there is one."""
  for path in sorted(Path(folder).glob("*.json")) if folder else ():
    if read(path).get("fingerprint") == fingerprint:
      return path
  return None


def compile_rows(todo: Sequence[Row], parallel: int) -> None:
  """Compiles rows, and prints a line for each as it finishes.

  Args:
    todo: The rows.
    parallel: Number of rows compiled at the same time.
  """
  waiting, running, number = list(todo), [], 0
  try:
    while waiting or running:
      while waiting and len(running) < parallel:
        running.append(_Compilation(waiting.pop(0)))
      time.sleep(_POLL_SECONDS)
      for each in [each for each in running if each.has_ended()]:
        result, number = each.keep_figures(), number + 1
        running.remove(each)
        print(
          f"{number}/{len(todo)} {each.row.program} {each.row.config}"
          f" {each.row.topology}:"
          f" {table_page.summary(result)}",
          flush=True,
        )
  finally:
    for each in running:  # After a Ctrl-C.
      each.kill()


class _Compilation:
  """A process that compiles a row.

  Args:
    row: The row.
  """

  def __init__(self, row: Row):
    self.row = row
    self._config = costs.load_config(row.config)
    self._new = row.file.with_suffix(".new")
    topology = chips.dividing(row.topology, self._config.batch_size)
    command = [
      *(sys.executable, "-m", "scripts.compile_ahead"),
      *(f"--config={row.config}", "--config.precision=bfloat16"),
      *(f"--program={row.program}", f"--topology={topology}"),
      *(f"--reuse={row.folder}", f"--json={self._new}"),
    ]
    if row.program == "train":
      command.append("--fit")
    elif parts := read(row._replace(program="train").file).get(
      "num_microbatches"
    ):
      command.append(f"--config.num_microbatches={parts}")
    self._log = row.file.with_suffix(".log")
    with self._log.open("w", encoding="utf-8") as log:
      self._process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=log,
        # Otherwise the last line of the log is not the error.
        env=os.environ | {"JAX_TRACEBACK_FILTERING": "off"},
      )
    self._end = time.monotonic() + _SECONDS

  def has_ended(self) -> bool:
    """Returns whether the process has ended, or took too long."""
    return self._process.poll() is not None or time.monotonic() > self._end

  def kill(self) -> None:
    """Ends the process; its figures are lost."""
    self._process.kill()
    self._process.wait()
    self._log.unlink()
    self._new.unlink(missing_ok=True)

  def keep_figures(self) -> dict[str, Any]:
    """Writes the figures to the row's file and returns them.

    Returns:
      The figures, or only "error", the reason why there are none.

    Raises:
      KeyboardInterrupt: The process was interrupted.
    """
    status = self._process.returncode
    if status in _INTERRUPTED:
      raise KeyboardInterrupt
    lines = self._log.read_text(encoding="utf-8").strip().splitlines()
    error = lines[-1] if lines else f"status {status}"
    if status is None:
      error = f"not compiled within {_SECONDS} s"
    figures = read(self._new) or {"error": error}
    self.kill()
    figures |= {
      "config": self.row.config,
      "num_steps": variants.num_steps(self._config),
    }
    files.write_text(self.row.file, json.dumps(figures, indent=2) + "\n")
    return figures


def configs_named(chosen: Sequence[str]) -> list[str]:
  """Returns configs by name; all of them if none is chosen.

  Raises:
    UserError: There is no such config.
  """
  every = {
    file: [f"{file}:{name}" for name in variants.names(file) if name != "smoke"]
    for file in variants.config_files()
  }
  known = [config for configs in every.values() for config in configs]
  result = []
  for name in chosen or every:
    if name not in every and name not in known:
      raise UserError(
        f"--configs={name} is no config; give configs/FILE.py:VARIANT, or one"
        f" of {', '.join(every)}"
      )
    result += every.get(name, [name])
  return result


def _name(text: str) -> str:
  """Returns a part of a file's name."""
  return re.sub(r"\W+", "_", text.removeprefix("configs/")).strip("_")


if __name__ == "__main__":
  define_flags()
  launch.run(main)

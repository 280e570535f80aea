r"""Prints the heartbeat and the last log lines of every process of a run.

  python -m scripts.logs --workdir=runs/imagenet --lines=5

shows at which step each process is, what it does, and when it last wrote, by
the clock of its host. Then it waits for the next heartbeat of each process that
has not ended, which takes 10 seconds, and names those that are silent for 30: a
process that was killed, or whose host is lost. No clocks are compared.
docs/reliability.md describes the files.

Exit status: 0; 1 if a process has failed or is silent.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import launch
from perceiver_jax.training.logs import process_log

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_LINES = flags.DEFINE_integer("lines", 10, "Lines of each log.", 0)

_FAILED = 1
# Seconds without a new heartbeat after which a process is silent. Writing to a
# bucket may take a while.
_SILENCE = 3 * process_log.INTERVAL
# Measurements, and how they are shown.
_MEASURED = {
  "step_seconds": "{:.3g} s a step",
  "data_wait_percent": "{:.0f}% waiting for data",
  "host_gb": "{:.1f} GB",
  "device_gb": "{:.1f} GB on a device",
}


def main(argv: Sequence[str]) -> int:
  """Prints all heartbeats and logs."""
  launch.no_arguments(argv)
  folder = launch.workdir()
  heartbeats = _read(folder)
  for heartbeat in heartbeats:
    print(_text(heartbeat))
    lines = process_log.read_log(folder, heartbeat["process"])
    for line in lines[max(len(lines) - _LINES.value, 0) :]:
      print(f"  {_printable(line)}")
  silent = _silent(folder, heartbeats)
  for heartbeat in silent:
    about = process_log.describe(heartbeat)
    print(_printable(f"SILENT for {_SILENCE:.0f} seconds: {about}"))
  failed = any(h["doing"] == process_log.FAILED for h in heartbeats)
  return _FAILED if failed or silent else 0


def _read(folder: Path) -> list[dict[str, Any]]:
  """Reads the heartbeats of the processes of the latest start.

  An earlier start with more processes has left others. Every start has a
  process 0.
  """
  heartbeats = process_log.read_heartbeats(folder)
  count = heartbeats[0]["num_processes"]
  return [h for h in heartbeats if h["process"] < count]


def _silent(
  folder: Path, before: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
  """Waits for new heartbeats; returns those of processes that write none."""
  waiting = {h["process"]: h for h in before if not _has_ended(h)}
  if waiting:
    print(f"waiting for heartbeats, {_SILENCE:.0f} seconds at most", flush=True)
  end = time.monotonic() + _SILENCE
  while waiting and time.monotonic() < end:
    time.sleep(process_log.INTERVAL / 10)
    for heartbeat in process_log.read_heartbeats(folder):
      process = heartbeat["process"]
      if process in waiting and heartbeat != waiting[process]:
        del waiting[process]
  return list(waiting.values())


def _text(heartbeat: Mapping[str, Any]) -> str:
  """Returns one line on a process."""
  doing = heartbeat["doing"] or "the loop"
  state = doing if _has_ended(heartbeat) else f"in {doing}"
  measured = [
    shown.format(heartbeat[name])
    for name, shown in _MEASURED.items()
    if isinstance(heartbeat.get(name), float)
  ]
  step = f"step {heartbeat['step']:,}"
  parts = [step, f"{state} at {heartbeat['time']}", *measured]
  about = process_log.describe(heartbeat)
  return _printable(f"{about}: {', '.join(parts)}")


def _has_ended(heartbeat: Mapping[str, Any]) -> bool:
  return heartbeat["doing"] in (process_log.ENDED, process_log.FAILED)


def _printable(line: str) -> str:
  """Returns a line without characters that control a terminal."""
  replaced = "\N{REPLACEMENT CHARACTER}"
  return "".join(c if c.isprintable() else replaced for c in line)


if __name__ == "__main__":
  launch.run(main)

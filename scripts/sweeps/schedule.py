"""Trains the runs of a sweep, several at a time, with other processes."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from perceiver_jax import growing_folder
from scripts.sweeps import devices, points, runs

_POLL = 0.2  # Seconds between two looks at the runs.
# Exit statuses after a signal; see `experiments.launch`.
_STATUSES = {signal.SIGTERM: 75, signal.SIGINT: 130}
_REPORT = 60.0  # Seconds between two lines on the progress.


class _Active(NamedTuple):
  """A run that this process trains."""

  run: points.Run
  process: subprocess.Popen
  claim: runs.AnyClaim
  slot: int
  start: float
  log: TextIO | None


class Schedule:
  """Runs to train, of which each is trained by one process at a time.

  Args:
    out: Folder of the sweep.
    pending: The runs.
    parallel: How many train at the same time.
    total: Number of runs in the end; `more` may add to the pending ones.
    more: Returns another run, or None if there is none.
    ended: Called with a run and its exit status when it has ended.

  Attributes:
    statuses: Exit statuses of the runs that have ended, by name.
    stopped: Status of a run that was stopped early, after which no other is
      started; else 0.
  """

  def __init__(
    self,
    out: Path,
    pending: Iterable[points.Run],
    parallel: int,
    total: int,
    more: Callable[[], points.Run | None] = lambda: None,
    ended: Callable[[points.Run, int], None] = lambda run, status: None,
  ):
    self._out, self._pending = out, list(pending)
    self._shares = devices.shares(parallel)
    self._logs = growing_folder.GrowingFolder(out)
    self._total, self._more, self._ended = total, more, ended
    self._active: list[_Active] = []
    self._elsewhere: set[str] = set()
    self._numbers: dict[str, int] = {}
    self._seconds: list[float] = []
    self._reported = time.monotonic()
    self.statuses: dict[str, int] = {}
    self.stopped = 0

  def run(self) -> None:
    """Trains until all runs have ended, here or in another process."""
    with self._handling_signals():
      try:
        while True:
          self._collect()
          if not self.stopped:
            self._start()
          waiting = self._pending and not self.stopped
          if not self._active and not waiting:
            return
          self._report()
          time.sleep(_POLL)
      except BaseException:
        self._abandon()
        raise

  def _abandon(self) -> None:
    """Lets the runs that still train save and stop, and releases them."""
    for active in self._active:
      active.process.send_signal(signal.SIGTERM)
    for active in self._active:
      active.process.wait()
      active.claim.release(0)  # Others may go on with it.

  def _start(self) -> None:
    """Starts pending runs in the free slots."""
    for run in list(self._pending):
      if self.stopped or len(self._active) == len(self._shares):
        return
      self._try(run)
    while not self.stopped and len(self._active) < len(self._shares):
      run = self._more()
      if run is None:
        return
      self._pending.append(run)
      self._try(run)

  def _try(self, run: points.Run) -> None:
    """Starts a run unless it is finished, or trained by another process."""
    folder, title = self._out / run.name, self._title(run)
    claim = runs.claim(folder)
    if claim is None:
      if run.name not in self._elsewhere:
        print(f"{title}: trained by another process", flush=True)
      self._elsewhere.add(run.name)
      return
    self._pending.remove(run)
    if runs.is_finished(folder):
      print(f"{title}: finished before", flush=True)
      self._end(run, 0, claim)
    elif run.name in self._elsewhere and claim.status:
      print(f"{title}: failed in another process", flush=True)
      self._end(run, claim.status, claim)
    else:
      print(f"{title}{self._remaining()}", flush=True)
      self._launch(run, claim)

  def _launch(self, run: points.Run, claim: runs.AnyClaim) -> None:
    """Starts a run with the devices of a free slot."""
    used = {active.slot for active in self._active}
    slot = min(set(range(len(self._shares))) - used)
    share, log = self._shares[slot], None
    folder = self._out / run.name
    if len(self._shares) > 1:
      log = self._logs.fetch(f"{run.name}.log").open("a", encoding="utf-8")
    with share.for_children():
      process = runs.start(folder, run.flags, claim, share.environment(), log)
    self._active.append(
      _Active(run, process, claim, slot, time.monotonic(), log)
    )

  def _collect(self) -> None:
    """Takes the exit statuses of the runs that have ended."""
    for active in list(self._active):
      status = active.process.poll()
      if status is None:
        continue
      self._active.remove(active)
      if active.log is not None:
        active.log.close()
        self._logs.sync(now=True)
      self._seconds.append(time.monotonic() - active.start)
      if status and self.stopped:
        # The signal kills a run that does not handle it yet.
        status = self.stopped
      if status and status not in runs.STOPPED:
        print(
          f"{self._title(active.run)}: failed with status {status}"
          + (f", see {self._out / active.run.name}.log" if active.log else ""),
          flush=True,
        )
      self._end(active.run, status, active.claim)

  def _end(self, run: points.Run, status: int, claim: runs.AnyClaim) -> None:
    """Records the end of a run."""
    self.statuses[run.name] = status
    if status in runs.STOPPED:
      self.stopped = status
    try:
      self._ended(run, status)
    finally:
      claim.release(status)

  def _title(self, run: points.Run) -> str:
    number = self._numbers.setdefault(run.name, len(self._numbers) + 1)
    return f"[{number}/{self._total}] {run.name}"

  def _remaining(self) -> str:
    """Formats the estimated time that remains; "" before a run has ended."""
    if not self._seconds:
      return ""
    count = self._total - len(self.statuses)
    mean = sum(self._seconds) / len(self._seconds)
    minutes = count * mean / len(self._shares) / 60
    return f": about {minutes:,.0f} min for the remaining {count}"

  def _report(self) -> None:
    """Prints a line on all runs, once a minute."""
    now = time.monotonic()
    if len(self._shares) == 1 or now - self._reported < _REPORT:
      return
    self._reported = now
    self._logs.sync()
    failed = sum(bool(status) for status in self.statuses.values())
    steps = ", ".join(
      f"{a.run.name} at step {runs.last_step(self._out / a.run.name):,}"
      for a in self._active
    )
    print(
      f"{len(self.statuses)} of {self._total} ended, {failed} failed;"
      f" {steps or 'waiting for another process'}{self._remaining()}",
      flush=True,
    )

  @contextlib.contextmanager
  def _handling_signals(self) -> Iterator[None]:
    """Passes a request to save and stop on to the runs."""

    def stop(number: int, _: object) -> None:
      self.stopped = self.stopped or _STATUSES[number]
      # The terminal interrupts the runs too.
      if number == signal.SIGTERM:
        for active in self._active:
          active.process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in _STATUSES}
    try:
      yield
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)

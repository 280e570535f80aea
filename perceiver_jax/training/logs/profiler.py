"""Profiles steps of a run for XProf, from a given step or on a signal."""

import contextlib
import signal
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import ml_collections

from perceiver_jax import files
from perceiver_jax.training import workdir as workdir_lib
from perceiver_jax.training.logs.process_log import RUN_LOGGER

SIGNAL = signal.SIGUSR1

_FOLDER = "profile"


class Profiler:
  """Traces `config.log.profile_steps` steps of this process.

  A trace begins at `config.log.profile_from_step`, or at the next step after
  `SIGNAL`. With several processes it begins in all of them, after the next
  logged step, at which they agree. A trace of a process is
  `profile/plugins/profile/step_N/PROCESS-HOST.xplane.pb` in the workdir.

  Args:
    workdir: folder of the run.
    log: section `log` of the config.

  Attributes:
    is_requested: whether this process has received the signal.
    say: prints a line, such as where a trace is.
  """

  def __init__(self, workdir: Path, log: ml_collections.ConfigDict):
    self._workdir = workdir
    self._from_step, self._num_steps = log.profile_from_step, log.profile_steps
    self._is_single = jax.process_count() == 1
    self._first = 0  # First step of the open trace; 0 if there is none.
    self._is_agreed = False
    self._stack = contextlib.ExitStack()
    self.is_requested = False
    self.say: Callable[[str], None] = RUN_LOGGER.info

  @contextlib.contextmanager
  def handled(self) -> Iterator[None]:
    """Handles `SIGNAL`, and ends an open trace at the end."""
    before = signal.signal(SIGNAL, self._request)
    try:
      yield
    finally:
      self._end()
      signal.signal(SIGNAL, before)

  def agree(self, is_requested: bool) -> None:
    """Begins a trace at the next step, if any process requests it."""
    self._is_agreed = self._is_agreed or is_requested

  @contextlib.contextmanager
  def step(self, step: int, wait: Callable[[], None]) -> Iterator[None]:
    """Marks a step, and traces it if it is one to trace.

    Args:
      step: number of the step, from 1.
      wait: waits until the device has finished the step.
    """
    is_agreed = self.is_requested if self._is_single else self._is_agreed
    if not self._first and (is_agreed or step == self._from_step):
      self._begin(step)
    if not self._first:
      yield
      return
    with jax.profiler.StepTraceAnnotation("train", step_num=step):
      yield
    if step + 1 == self._first + self._num_steps:
      wait()
      self._end()

  def _request(self, _: int, __: types.FrameType | None) -> None:
    self.is_requested = True

  def _begin(self, step: int) -> None:
    # Not into the workdir, which may be a bucket. Processes on the same host
    # would also write the same file.
    local = self._stack.enter_context(tempfile.TemporaryDirectory())
    try:
      jax.profiler.start_trace(local)
    except RuntimeError as error:  # The program may profile itself.
      self.say(f"step {step:,} can't be profiled: {error}")
      self._end()
      return
    self._first = step
    self._stack.callback(self._copy, Path(local))
    self._stack.callback(jax.profiler.stop_trace)

  def _end(self) -> None:
    self._stack.close()
    self._first = 0
    self.is_requested = self._is_agreed = False

  def _copy(self, local: Path) -> None:
    """Copies the files of a trace to the workdir."""
    step = f"step_{self._first}"
    folder = self._workdir / _FOLDER / "plugins" / "profile" / step
    with workdir_lib.writing(self._workdir):
      folder.mkdir(parents=True, exist_ok=True)
      for path in filter(Path.is_file, local.rglob("*")):
        target = folder / f"{jax.process_index()}-{path.name}"
        files.write_bytes(target, path.read_bytes())
    self.say(f"wrote a profile from step {self._first:,} to {folder}")

"""The ways to disturb a run.

Each function starts the run in a workdir, disturbs it, and returns when the run
has ended, with what it has to do checked. The next start resumes it.
"""

import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.torture import runs, task

Fault = Callable[[runs.Lab, Path, random.Random], None]

_DAY = 86_400
# Enough for the config and the logs, and not for a checkpoint.
_SMALL_DISK = 20_000
# Seconds. The time that a worker process needs to start is part of it.
_TIMEOUT = 120
_WORKER = ("data.num_workers=1",)


def kill(lab: runs.Lab, workdir: Path, rng: random.Random) -> None:
  """Kills the run after some steps."""
  run = lab.start(workdir)
  run.advance(rng.randint(1, 8))
  time.sleep(rng.uniform(0, 0.1))
  run.end(signal.SIGKILL)


def kill_while_saving(lab: runs.Lab, workdir: Path, rng: random.Random) -> None:
  """Kills the run while it writes a checkpoint."""
  run = lab.start(workdir)
  run.advance(1)
  run.wait_for(lambda: runs.is_saving(workdir), "checkpoint")
  time.sleep(rng.uniform(0, 0.05))
  run.end(signal.SIGKILL)


def terminate(lab: runs.Lab, workdir: Path, rng: random.Random) -> None:
  """Sends SIGTERM, after which the run saves and ends with status 75."""
  run = lab.start(workdir)
  run.advance(rng.randint(1, 8))
  run.process.send_signal(signal.SIGTERM)
  run.expect(75)


def truncate_file(lab: runs.Lab, workdir: Path, rng: random.Random) -> None:
  """Cuts a file of the newest checkpoint off."""
  path = _checkpoint_file(lab, workdir, rng)
  os.truncate(path, rng.randrange(path.stat().st_size))
  kill(lab, workdir, rng)


def flip_bit(lab: runs.Lab, workdir: Path, rng: random.Random) -> None:
  """Flips a bit of a file of the newest checkpoint."""
  path = _checkpoint_file(lab, workdir, rng)
  data = bytearray(path.read_bytes())
  data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  path.write_bytes(data)
  kill(lab, workdir, rng)


def remove_file(lab: runs.Lab, workdir: Path, rng: random.Random) -> None:
  """Removes a file of the newest checkpoint."""
  _checkpoint_file(lab, workdir, rng).unlink()
  kill(lab, workdir, rng)


def fill_disk(lab: runs.Lab, workdir: Path, rng: random.Random) -> None:
  """Limits the size of files, after which a save ends the run."""
  del rng
  run = lab.start(workdir, max_file_bytes=_SMALL_DISK)
  run.expect(2, "written")


def set_clock_back(lab: runs.Lab, workdir: Path, rng: random.Random) -> None:
  """Makes all files of the run a day newer than the clock."""
  future = time.time() + _DAY
  for path in [workdir, *workdir.rglob("*")]:
    os.utime(path, (future, future))
  kill(lab, workdir, rng)


def hang_worker(lab: runs.Lab, workdir: Path, rng: random.Random) -> None:
  """Lets a file not answer, which is named before the run ends."""
  del rng
  leaves = (*_WORKER, f"data_timeout_seconds={_TIMEOUT}")
  hang = lab.fault(task.HANG)
  hang.touch()
  try:
    run = lab.start(workdir, leaves)
    run.expect(75, f"error: no batch of data for {_TIMEOUT} s")
  finally:
    hang.unlink()
  if str(lab.images) not in run.errors():
    raise runs.UnexpectedError(f"no file is named: {run.errors()[-2000:]}")


def kill_worker(lab: runs.Lab, workdir: Path, rng: random.Random) -> None:
  """Kills the process that prepares batches, after which the run goes on."""
  run = lab.start(workdir, _WORKER)
  run.advance(1)
  for worker in _workers(run.process.pid):
    os.kill(worker, signal.SIGKILL)
  run.wait_for(lambda: "starting it again" in run.errors(), "new worker")
  run.advance(rng.randint(1, 8))
  run.end(signal.SIGKILL)


def remove_image(lab: runs.Lab, workdir: Path, rng: random.Random) -> None:
  """Removes an image during a copy of the run, which another image replaces."""
  copy, images = _copy(lab, workdir)
  run = lab.start(copy, images=images)
  run.advance(1)
  rng.choice(sorted(images.glob("train/*/*.png"))).unlink()
  run.wait_for(lambda: "takes its place" in run.errors(), "warning")
  run.advance(2)
  run.end(signal.SIGKILL)


def spoil_batch(lab: runs.Lab, workdir: Path, rng: random.Random) -> None:
  """Gives a copy of the run images that are not a number; it fails."""
  del rng
  copy, images = _copy(lab, workdir)
  nan = lab.fault(task.NAN)
  nan.touch()
  try:
    lab.start(copy, images=images).expect(1, "error: ")
  finally:
    nan.unlink()


KILLS: dict[str, Fault] = {
  "kill -9": kill,
  "kill -9 while saving": kill_while_saving,
}
OTHERS: dict[str, Fault] = {
  "SIGTERM": terminate,
  "hung data worker": hang_worker,
  "killed data worker": kill_worker,
  "full disk": fill_disk,
  "bit flipped in a checkpoint": flip_bit,
  "truncated checkpoint file": truncate_file,
  "missing checkpoint file": remove_file,
  "clock set back": set_clock_back,
  "vanished image": remove_image,
  "NaN batch": spoil_batch,
}


def _checkpoint_file(lab: runs.Lab, workdir: Path, rng: random.Random) -> Path:
  """Returns a file of the newest checkpoint, after there are at least two."""
  if len(runs.checkpoints(workdir)) < 2:
    run = lab.start(workdir)
    run.wait_for(lambda: len(runs.checkpoints(workdir)) > 1, "checkpoints")
    run.end(signal.SIGKILL)
  newest = runs.checkpoints(workdir)[-1]
  files = [p for p in newest.rglob("*") if p.is_file() and p.stat().st_size]
  return rng.choice(sorted(files))


def _copy(lab: runs.Lab, workdir: Path) -> tuple[Path, Path]:
  """Copies the run and its images to new folders."""
  copy, images = workdir.with_name("copy"), workdir.with_name("copied_images")
  for folder in (copy, images):
    shutil.rmtree(folder, ignore_errors=True)
  if workdir.exists():
    shutil.copytree(workdir, copy)
  return copy, Path(shutil.copytree(lab.images, images))


def _workers(parent: int) -> list[int]:
  """Returns the processes that prepare batches for a run, on Linux."""
  found = []
  for path in Path("/proc").glob("[0-9]*/stat"):
    try:
      status = path.read_text().rpartition(")")[2].split()
      command = path.with_name("cmdline").read_bytes()
    except OSError:  # It has ended.
      continue
    if int(status[1]) == parent and b"spawn_main" in command:
      found.append(int(path.parent.name))
  return found


def schedule(rng: random.Random) -> Iterator[str]:
  """Yields names of disturbances: all of them in turn, in random order.

  Every other one is a kill -9, half of these during a save.
  """
  kills = itertools.cycle(KILLS)
  while True:
    others = list(OTHERS)
    rng.shuffle(others)
    for other in others:
      yield next(kills)
      yield other

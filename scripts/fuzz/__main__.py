"""Reads damaged files: python -m scripts.fuzz --minutes=5.

Files of every kind that is read (weights, pickles, configurations, images,
flow, audio, video, folders of runs, lists, token ids, meshes, point clouds,
observations) are damaged at random and read in another process. Each must be
read, or be refused by an error of one line, within 10 seconds of processor time
and 2 GB. The files that are not are kept in --keep, and the exit status is 1.
Meshes and HDF5 files need pip install 'perceiver_jax[points]'.
"""

import collections
import json
import random
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import launch
from perceiver_jax.errors import UserError
from perceiver_jax.files import on_disk

_MINUTES = flags.DEFINE_float(
  "minutes", 5.0, "Minutes to run for.", lower_bound=0.0
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the damage.", lower_bound=0)
_KEEP = flags.DEFINE_string(
  "keep", "fuzz_failures", "Folder for files that break a reader."
)
_ONLY = flags.DEFINE_list("only", [], "Kinds of files; default: all.")

_SECONDS = 10.0  # Of processor time, for one file.
# Seconds of real time after which a reader is killed, and the same for the
# first file, which includes the start of its process.
_HANGS, _STARTS = 60.0, 600.0


class _Worker:
  """A process that reads files; it is started again after it has ended."""

  def __init__(self):
    self._process: subprocess.Popen | None = None

  def read(self, kind: str, path: Path) -> dict[str, Any]:
    """Returns the answer of `worker`, or what has become of it."""
    patience = _HANGS
    if self._process is None:
      patience = _STARTS
      self._process = subprocess.Popen(
        [sys.executable, "-m", "scripts.fuzz.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
      )
    print(json.dumps([kind, str(path)]), file=self._process.stdin, flush=True)
    with selectors.DefaultSelector() as selector:
      selector.register(self._process.stdout, selectors.EVENT_READ)
      if not selector.select(patience):
        self.close()
        return {"outcome": "failed", "detail": f"no answer in {patience:g} s"}
    if line := self._process.stdout.readline():
      answer = json.loads(line)
      if answer["seconds"] > _SECONDS:
        answer = {
          "outcome": "failed",
          "detail": f"took {answer['seconds']:.1f} s of processor time",
        }
      return answer
    status = self._process.wait()
    self._process = None
    return {"outcome": "failed", "detail": f"ended with status {status}"}

  def close(self) -> None:
    """Ends the process."""
    if self._process is not None:
      self._process.kill()
      self._process.communicate()
      self._process = None


def main(argv: Sequence[str]) -> int:
  """Damages and reads files until the time is over."""
  launch.no_arguments(argv)
  on_disk(_KEEP.value, "--keep")
  from scripts.fuzz import corpus, mutations

  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    files = corpus.make(folder / "corpus")
    if unknown := set(_ONLY.value) - set(files):
      raise UserError(
        f"--only: unknown kinds {', '.join(sorted(unknown))}; known are"
        f" {', '.join(files)}"
      )
    files = {k: v for k, v in files.items() if k in (_ONLY.value or files)}
    counts = collections.Counter()
    rng, worker = random.Random(_SEED.value), _Worker()
    try:
      _check_whole(worker, files)
      end = time.monotonic() + 60 * _MINUTES.value
      while time.monotonic() < end:
        for kind, paths in files.items():
          case = _copy(rng.choice(paths), folder / "case")
          mutations.mutate(case, rng)
          answer = worker.read(kind, case)
          counts[kind, answer["outcome"]] += 1
          if answer["outcome"] == "failed":
            _keep(kind, counts[kind, "failed"], case, answer["detail"])
    finally:
      worker.close()
  return _report(list(files), counts)


def _check_whole(worker: _Worker, files: dict[str, list[Path]]) -> None:
  """Checks that files without damage are read, or nothing is tested."""
  for kind, paths in files.items():
    for path in paths:
      answer = worker.read(kind, path)
      if answer["outcome"] != "read":
        raise RuntimeError(f"{path} is {answer['outcome']}: {answer['detail']}")


def _copy(source: Path, folder: Path) -> Path:
  """Copies a file or folder, and the files that it is read with."""
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  target = folder / source.name
  if source.is_dir():
    return Path(shutil.copytree(source, target))
  return Path(shutil.copy(source, target))


def _keep(kind: str, number: int, case: Path, detail: str) -> None:
  """Copies a case that breaks a reader, with the explanation."""
  target = Path(_KEEP.value).expanduser() / f"{kind}-{_SEED.value}-{number}"
  shutil.rmtree(target, ignore_errors=True)
  shutil.copytree(case.parent, target)
  (target / "detail.txt").write_text(detail, encoding="utf-8")
  print(f"{target}: {detail.strip().splitlines()[-1][:300]}", flush=True)


def _report(kinds: Sequence[str], counts: collections.Counter) -> int:
  print(f"{'kind':12} {'read':>8} {'refused':>8} {'failed':>8}")
  for kind in kinds:
    numbers = (counts[kind, name] for name in ("read", "refused", "failed"))
    print(f"{kind:12} " + " ".join(f"{number:8,}" for number in numbers))
  failed = sum(counts[kind, "failed"] for kind in kinds)
  print(f"{counts.total():,} damaged files, {failed:,} of which broke a reader")
  return 1 if failed else 0


if __name__ == "__main__":
  launch.run(main)

"""Disturbs a run again and again: python -m scripts.torture --disturbances=50.

A small run on images of digits is killed (half of the time while it saves),
terminated, deprived of its disk, data workers, images and checkpoint files, and
started again each time. In the end its parameters must be bitwise those of a
run that was left alone, and its metrics the same. Each disturbance must also
end as docs/reliability.md says. If one does not, its files are kept and the
exit status is 1. Linux only.
"""

import collections
import itertools
import random
import shutil
import tempfile
import time
from collections.abc import Sequence

from absl import flags
from tqdm import tqdm

from experiments import launch
from perceiver_jax import files
from perceiver_jax.errors import UserError
from scripts.torture import faults, runs

_DISTURBANCES = flags.DEFINE_integer(
  "disturbances", 50, "Their number; every other one is a kill -9.",
  lower_bound=1,
)  # fmt: skip
_SEED = flags.DEFINE_integer("seed", 0, "Seed of their order and times.")
_OUT = flags.DEFINE_string("out", "", "New folder; default: a temporary one.")

# Steps of the run for each disturbance; few of them are taken in between.
_STEPS = 25


def main(argv: Sequence[str]) -> int:
  """Disturbs a run, compares it with another, and prints a table."""
  launch.no_arguments(argv)
  out = files.on_disk(_OUT.value or tempfile.mkdtemp(prefix="torture"), "--out")
  if _OUT.value and out.exists():
    raise UserError(f"--out={out} exists; give a new folder")
  rng = random.Random(_SEED.value)
  chosen = list(itertools.islice(faults.schedule(rng), _DISTURBANCES.value))
  lab = runs.Lab(out, _STEPS * (1 + len(chosen)))
  start = time.monotonic()
  counts: collections.Counter = collections.Counter()
  try:
    with tqdm(chosen, "disturbances", disable=None) as bar:
      for name in bar:
        bar.set_postfix_str(name)
        (faults.KILLS | faults.OTHERS)[name](lab, out / "run", rng)
        counts[name] += 1
    for name in ("run", "undisturbed"):
      print(f"waiting for the end of {name} ...", flush=True)
      lab.start(out / name).expect(0)
    different = runs.differences(out / "run", out / "undisturbed")
  except runs.UnexpectedError as error:
    _print_table(counts)
    raise RuntimeError(
      f"{error} (after {counts.total()}; see {out})"
    ) from error
  _print_table(counts)
  print(
    f"{counts.total()} disturbances of {lab.num_steps} steps in"
    f" {time.monotonic() - start:.0f} s, seed {_SEED.value}: "
    + (f"{', '.join(different)} differ" if different else "bitwise equal")
  )
  if different or _OUT.value:
    print(f"kept in {out}")
  else:
    shutil.rmtree(out)
  return 1 if different else 0


def _print_table(counts: collections.Counter) -> None:
  for name in (*faults.KILLS, *faults.OTHERS):
    print(f"{name:30} {counts[name]:4}")


if __name__ == "__main__":
  launch.run(main)

r"""Launches a run or a sweep here, on a cluster or in the cloud.

  python -m scripts.launch --where=slurm --accelerator=A100:8 \
    --config=configs/imagenet.py:fourier --workdir=runs/fourier

prints the commands that it would run and writes their files (a batch script, a
JobSet and so on) into --out, to be read first; --execute runs them. Arguments
after `--` go to every run:

  python -m scripts.launch --where=gke --accelerator=v5e:4x4 --spot \
    --image=IMAGE --config=configs/imagenet.py:figure5 \
    --sweep=figure5_latents --workdir=gs://BUCKET/figure5 -- --config.seed=3

With --sweep each point is a job of its own, in a folder of the workdir; on this
machine `scripts.sweep` trains them, --parallel of them at a time. Runs that are
stopped early (status 75) or whose machines are taken away are started again;
docs/launching.md says how.

Exit status: 0 done, or the commands were printed; otherwise that of the first
command that failed.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from experiments import launch
from experiments.predictions import outputs
from perceiver_jax import files
from perceiver_jax.errors import UserError
from scripts.launch import job as job_lib
from scripts.launch.launchers import LAUNCHERS
from scripts.sweeps import points, sweep_flags

_ROOT = Path(__file__).parent.parent.parent

_WHERE = flags.DEFINE_enum("where", None, list(LAUNCHERS), "Where to run.")
_CONFIG = sweep_flags.define_config()
_SWEEP = sweep_flags.define_sweep()
_PARALLEL = sweep_flags.define_parallel()
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run, or of the runs of a sweep."
)
_OUT = flags.DEFINE_string(
  "out", "", "Folder of the files to review; default: launch/NAME."
)
_NAME = flags.DEFINE_string(
  "name", "", "Name of the job; default: from the config's."
)
_EXECUTE = flags.DEFINE_bool("execute", False, "Run the commands.")
_ACCELERATOR = flags.DEFINE_string(
  "accelerator",
  "",
  "Accelerators: GPU:NUMBER of each host, such as A100:8, or TPUs as"
  " GENERATION:TOPOLOGY, such as v5e:4x4. Default: none.",
)
_HOSTS = flags.DEFINE_integer(
  "hosts", 1, "Hosts with CPUs or GPUs; TPUs have those of their topology.", 1
)
_SPOT = flags.DEFINE_bool(
  "spot", False, "Cheaper machines that may be taken away."
)
_PROJECT = flags.DEFINE_string("project", "", "Project of Google Cloud.")
_ZONE = flags.DEFINE_string("zone", "", "Zone of Google Cloud.")
_MOUNTS = flags.DEFINE_list(
  "mounts", [], "Buckets to mount: PATH=gs://BUCKET, separated by commas."
)
_IMAGE = flags.DEFINE_string("image", "", "gke: the container image.")
_QUEUE = flags.DEFINE_string(
  "queue", "", "slurm: the partition; gke: Kueue's queue."
)
_HOURS = flags.DEFINE_float("hours", 24.0, "slurm: the time limit.", 0)


def main(argv: Sequence[str]) -> int:
  """Writes the files, prints the commands, and runs them with --execute."""
  for name in ("where", "config", "workdir"):
    if not flags.FLAGS[name].value:
      raise UserError(f"--{name} is missing; --help lists the flags")
  _check_flags_have_effect()
  job = _job(argv[1:])
  plan = LAUNCHERS[_WHERE.value].plan(job)
  _write(job.out, plan.files)
  for command in plan.commands:
    print(shlex.join(command), flush=True)
  if not _EXECUTE.value:
    return 0
  return _execute(job, plan)


def _check_flags_have_effect() -> None:
  """Checks that no flag is given that only another launcher or a sweep has.

  Raises:
    UserError: There is one.
  """
  own = LAUNCHERS[_WHERE.value].FLAGS
  every = {name for module in LAUNCHERS.values() for name in module.FLAGS}
  for name in sorted(every - set(own)):
    flag = flags.FLAGS[name]
    if flag.value != flag.default:
      raise UserError(
        f"--{name} has no effect with --where={_WHERE.value}, which has"
        f" {', '.join(f'--{other}' for other in own)}"
      )
  if _PARALLEL.value > 1 and not _SWEEP.value:
    raise UserError(
      f"--parallel={_PARALLEL.value} has no effect without --sweep; leave it"
      " out, or name a sweep"
    )


def _job(others: Sequence[str]) -> job_lib.Job:
  """Returns the job of the flags.

  Raises:
    UserError: A flag is wrong.
  """
  is_local = _WHERE.value in ("local", "slurm")
  config = _CONFIG.value if is_local else _in_checkout(_CONFIG.value)
  workdir = _WORKDIR.value
  # Only the name is checked: this machine may have no access to the bucket.
  files.check_takes_checkpoints(workdir, "--workdir")
  sweep_command: list[str] = []
  if _SWEEP.value:
    runs = tuple(
      job_lib.Run(run.name, f"{workdir.rstrip('/')}/{run.name}", (*run.flags,))
      for run in points.runs(config, _SWEEP.value, others)
    )
    sweep_command = [
      sys.executable, "-m", "scripts.sweep", f"--config={config}",
      f"--sweep={','.join(_SWEEP.value)}", f"--out={workdir}",
      f"--parallel={_PARALLEL.value}", "--", *others,
    ]  # fmt: skip
  else:
    words = (f"--config={config}", *others)
    points.check_flags(words)
    runs = (job_lib.Run("", workdir, words),)
  name = _NAME.value or _default_name()
  job_lib.check_name(name)
  return job_lib.Job(
    name=name,
    runs=runs,
    sweep_command=tuple(sweep_command),
    root=_ROOT,
    out=files.on_disk(_OUT.value or f"launch/{name}", "--out"),
    python=sys.executable,
    accelerator=_ACCELERATOR.value,
    hosts=_HOSTS.value,
    spot=_SPOT.value,
    project=_PROJECT.value,
    zone=_ZONE.value,
    mounts=job_lib.parse_mounts(_MOUNTS.value),
    image=_IMAGE.value,
    queue=_QUEUE.value,
    hours=_HOURS.value,
  )


def _in_checkout(config: str) -> str:
  """Returns --config with the path that its file has in the checkout.

  Raises:
    UserError: The file is elsewhere, so that it would not be copied.
  """
  file, colon, variant = config.partition(":")
  path = Path(file).expanduser().absolute()
  if not path.is_relative_to(_ROOT):
    raise UserError(
      f"--config={config} is outside the checkout, which is all that is copied"
      f" to other machines; move it below {_ROOT}"
    )
  return f"{path.relative_to(_ROOT)}{colon}{variant}"


def _default_name() -> str:
  """Returns the config's name, variant and sweep with dashes, cut short."""
  file, _, variant = _CONFIG.value.partition(":")
  words = "-".join([Path(file).stem, variant, *_SWEEP.value]).lower()
  return re.sub(r"[^a-z0-9]+", "-", words)[:30].strip("-")


def _write(out: Path, texts: Mapping[str, str]) -> None:
  """Writes the files of a plan.

  Raises:
    UserError: The folder has other files of these names, or can't be written.
  """
  with outputs.writing(out, "another --out"):
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
      path = out / name
      # The machines of another job of this name would be taken for its own.
      if path.exists() and path.read_bytes() != text.encode():
        raise UserError(
          f"{path} has another job, or was changed; give another --name or"
          " --out, or delete it if that job has ended"
        )
    for name, text in texts.items():
      files.write_text(out / name, text)
      print(f"# written: {out / name}")


def _execute(job: job_lib.Job, plan: job_lib.Plan) -> int:
  """Runs the commands of a plan.

  Returns:
    The exit status of the first command that failed; 0 if none did.

  Raises:
    UserError: A program is not installed.
  """
  for program in {command[0] for command in plan.commands}:
    if shutil.which(program) is None:
      raise UserError(
        f"--execute: there is no {program!r} on this machine; install it, or"
        " run the commands above where it is"
      )
  if plan.together:
    return _execute_together(job, plan)
  for command in plan.commands:
    status = subprocess.run(command, check=False).returncode
    if status:
      print(f"status {status}: {shlex.join(command)}", file=sys.stderr)
      return status
  return 0


def _execute_together(job: job_lib.Job, plan: job_lib.Plan) -> int:
  """Runs the commands at the same time, each with a log."""
  processes = []
  for name, command in zip(job.names(), plan.commands, strict=True):
    path = job.out / f"{name}.out"
    print(f"{name}: the output is in {path}", flush=True)
    with path.open("w", encoding="utf-8") as log:
      processes.append(
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
      )
  statuses = [process.wait() for process in processes]
  for name, status in zip(job.names(), statuses, strict=True):
    print(f"{name}: ended with status {status}")
  return next(filter(None, statuses), 0)


if __name__ == "__main__":
  launch.run(main)

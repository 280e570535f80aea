"""A job to launch: one run, or the runs of a sweep, and where they run."""

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from perceiver_jax import files
from perceiver_jax.errors import UserError
from scripts.launch import machines

# Exit status of a run that was stopped early and can go on; see
# `experiments.launch`.
RESUME = 75
# How often a run is started again, so that a fault that always comes back
# does not cost forever.
MAX_RESTARTS = 100
# No GPUs, a number of them, or their kind with or without a number.
_GPUS = re.compile(r"|[1-9]\d*|[A-Za-z][\w.-]*(:[1-9]\d*)?", re.ASCII)
# A machine in the cloud has the checkout and its environment here.
REMOTE_PYTHON = ".venv/bin/python"


class Run(NamedTuple):
  """A run of a job.

  Attributes:
    name: What tells it from the other runs of a sweep; "" if it is the only
      one.
    workdir: Its folder.
    flags: The other flags of `experiments.train`.
  """

  name: str
  workdir: str
  flags: tuple[str, ...]

  def command(self, python: str) -> list[str]:
    """Returns the words of the command that trains it."""
    return [
      python, "-m", "experiments.train", f"--workdir={self.workdir}",
      *self.flags,
    ]  # fmt: skip


@dataclass(frozen=True)
class Job:
  """The runs to launch, and the machines to launch them on.

  Attributes:
    name: Name of the job: lower-case letters, digits and dashes.
    runs: Its runs.
    sweep_command: The words of `scripts.sweep` for the same runs; empty without
      a sweep.
    root: Folder of the checkout.
    out: Folder of the files that are written.
    python: Python of this machine.
    accelerator: Kind and number of accelerators of a host, as GPU:NUMBER, or
      a TPU slice, as GENERATION:TOPOLOGY; "" for CPUs.
    hosts: Number of hosts, of other accelerators than TPUs.
    spot: Whether the machines may be taken away, at a lower price.
    project: Project of Google Cloud.
    zone: Zone of Google Cloud.
    mounts: Buckets by the path where they are mounted.
    image: Container image.
    queue: Slurm's partition, or Kueue's queue.
    hours: Slurm's time limit; a run that reaches it goes on in another job.
  """

  name: str
  runs: tuple[Run, ...]
  sweep_command: tuple[str, ...]
  root: Path
  out: Path
  python: str
  accelerator: str = ""
  hosts: int = 1
  spot: bool = False
  project: str = ""
  zone: str = ""
  mounts: Mapping[str, str] | None = None
  image: str = ""
  queue: str = ""
  hours: float = 24.0

  def names(self) -> list[str]:
    """Returns the name of each run's resources: the job's, with a number."""
    if len(self.runs) == 1:
      return [self.name]
    return [f"{self.name}-{number}" for number in range(len(self.runs))]

  def slice(self) -> machines.Slice:
    """Returns the TPU slice.

    Raises:
      UserError: The accelerator is no TPU.
    """
    if not machines.is_tpu(self.accelerator):
      raise UserError(
        f"--accelerator={self.accelerator} is no TPU, which this launcher"
        " needs; give GENERATION:TOPOLOGY, such as v5e:4x4"
      )
    if self.hosts != 1:
      raise UserError(
        f"--hosts={self.hosts}: the hosts of TPUs follow from their topology;"
        " leave out --hosts"
      )
    return machines.parse(self.accelerator)


class Plan(NamedTuple):
  """The files and commands that launch a job.

  Attributes:
    files: Contents of the files to write, by name.
    commands: Commands to run from the checkout, as words.
    together: Whether the commands run at the same time, each with a log.
  """

  files: Mapping[str, str]
  commands: Sequence[Sequence[str]]
  together: bool = False


class Bucket(NamedTuple):
  """A bucket, or a folder of one, that is mounted on the machines."""

  path: str
  name: str
  folder: str

  @property
  def url(self) -> str:
    """Returns its address."""
    return "/".join(filter(None, ("gs:/", self.name, self.folder)))


def buckets(job: Job) -> list[Bucket]:
  """Returns the buckets of a job."""
  result = []
  for path, url in (job.mounts or {}).items():
    name, _, folder = url.removeprefix("gs://").strip("/").partition("/")
    result.append(Bucket(path, name, folder))
  return result


def parse_mounts(values: Sequence[str]) -> dict[str, str]:
  """Returns the buckets of --mounts=PATH=gs://BUCKET by path.

  Raises:
    UserError: A value has another form, or two have the same path.
  """
  mounts: dict[str, str] = {}
  for value in values:
    given, _, url = value.partition("=")
    path = posixpath.normpath(given)
    is_below_root = path.startswith("/") and path.strip("/")
    if not is_below_root or not re.fullmatch(r"gs://[^/]+(/.*)?", url):
      raise UserError(
        f"--mounts={value} is not PATH=gs://BUCKET; give an absolute path and"
        " a bucket of Cloud Storage, as in /runs=gs://my-bucket/runs"
      )
    if path in mounts:
      raise UserError(
        f"--mounts has {path} twice, with {mounts[path]} and {url}; give each"
        " bucket a path of its own"
      )
    mounts[path] = url
  return mounts


def check_gpus(accelerator: str) -> None:
  """Checks that --accelerator has GPUs, or is empty.

  Raises:
    UserError: It has another form.
  """
  if not _GPUS.fullmatch(accelerator):
    raise UserError(
      f"--accelerator={accelerator} is neither GPUs nor TPUs; give GPU:NUMBER,"
      " such as A100:8, or GENERATION:TOPOLOGY, such as v5e:4x4"
    )


def check_name(name: str) -> None:
  """Checks the name of a job, which becomes that of machines and pods.

  Raises:
    UserError: It has other characters, or is too long.
  """
  if not re.fullmatch(r"[a-z]([a-z0-9-]{0,28}[a-z0-9])?", name):
    raise UserError(
      f"--name={name} can't name machines; give at most 30 lower-case letters,"
      " digits and dashes that begin with a letter"
    )


def extras(job: Job, accelerator: str) -> str:
  """Returns the extras of setup.py that the machines need, as pip takes them.

  Args:
    job: The job.
    accelerator: The extra of its accelerator; "" for CPUs.
  """
  words = [word for run in job.runs for word in (run.workdir, *run.flags)]
  in_bucket = any(files.is_remote(word.rpartition("=")[2]) for word in words)
  return ",".join(filter(None, (accelerator, "gcs" * in_bucket)))


def check_remote(job: Job) -> None:
  """Checks that the results of a job outlive its machines.

  Raises:
    UserError: A workdir is on a disk of the machines.
  """
  paths = [bucket.path for bucket in buckets(job)]
  for run in job.runs:
    if files.is_remote(run.workdir):
      continue
    workdir = posixpath.normpath(run.workdir)
    if not any(workdir.startswith(f"{path}/") for path in paths):
      known = " or ".join(paths) or "/runs"
      raise UserError(
        f"--workdir={run.workdir} would be lost with its machine: give one in a"
        f" bucket (gs://BUCKET/FOLDER), or a folder under {known} and mount a"
        f" bucket there, with --mounts={paths[0] if paths else '/runs'}"
        "=gs://BUCKET"
      )

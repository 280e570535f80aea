"""Launchers that really run, with stand-ins for Slurm and gcloud."""

import json
import os
import subprocess

import pytest
import tiny_runs

from scripts.launch import job as job_lib
from scripts.launch import local, slurm, tpu_vm

_DIGITS = tiny_runs.ROOT / "configs" / "digits.py"

# Runs each task of a job, again when it goes back into the queue.
_SBATCH = """#!/usr/bin/env bash
last=$(sed -n 's/^#SBATCH --array=0-//p' "$1")
for task in $(seq 0 "${last:-0}"); do
  if [ "$last" ]; then export SLURM_ARRAY_TASK_ID=$task; fi
  export SLURM_JOB_ID=$((100 + task)) SLURM_RESTART_COUNT=0
  export SLURM_JOB_NODELIST="node[1-2]" SLURM_NTASKS=2
  while bash "$1"; [ -e "$STATE/requeue-$SLURM_JOB_ID" ]; do
    rm "$STATE/requeue-$SLURM_JOB_ID"
    echo "requeued $SLURM_JOB_ID" >> "$STATE/log"
    SLURM_RESTART_COUNT=$((SLURM_RESTART_COUNT + 1))
  done
done
"""
_SRUN = """#!/usr/bin/env bash
while [[ "$1" == --* ]]; do shift; done
SLURM_PROCID=1 exec "$@"
"""
_SCONTROL = """#!/usr/bin/env bash
case "$1" in
  requeue) touch "$STATE/requeue-$2" ;;
  show) printf 'node1\\nnode2\\n' ;;
esac
"""

# Ends with the statuses of $STATE/statuses, one after the other, then with 0.
_PYTHON = """#!/usr/bin/env bash
echo "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID $*" \\
  >> "$STATE/log"
status=$(head -n 1 "$STATE/statuses")
sed -i 1d "$STATE/statuses"
exit "${status:-0}"
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
  """Returns a function that puts stand-ins on PATH, and their state."""
  folder, state = tmp_path / "bin", tmp_path / "state"
  folder.mkdir()
  state.mkdir()
  monkeypatch.setenv("STATE", str(state))
  monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

  def put(**texts):
    for name, text in texts.items():
      path = folder / name
      path.write_text(text)
      path.chmod(0o755)
    return state

  return put


def make_job(tmp_path, **changes):
  runs = (job_lib.Run("", "/runs/it's one", ("--config=configs/a.py",)),)
  values = {
    "name": "a-job", "runs": runs, "sweep_command": (), "root": tmp_path,
    "out": tmp_path / "out", "python": str(tmp_path / "bin" / "python"),
  } | changes  # fmt: skip
  job = job_lib.Job(**values)
  job.out.mkdir()
  return job


def write(job, plan):
  for name, text in plan.files.items():
    (job.out / name).write_text(text)
  return plan.commands


@pytest.mark.slow  # A training.
def test_local_trains(script, tmp_path, monkeypatch, compile_cache):
  for name, value in compile_cache.items():
    monkeypatch.setenv(name, value)
  done = script(
    "launch", "--where=local", "--execute", f"--config={_DIGITS}:smoke",
    f"--workdir={tmp_path / 'a run'}", f"--out={tmp_path / 'out'}", "--",
    "--config.num_steps=1",
  )  # fmt: skip
  assert done.status == 0, done.err
  assert (tmp_path / "a run" / "results.json").is_file()
  assert f"bash {tmp_path / 'out' / 'run.sh'}" in done.out.splitlines()


def test_local_passes_the_status_on(programs, tmp_path):
  state = programs(python=_PYTHON)
  (state / "statuses").write_text("75\n")
  job = make_job(tmp_path)
  (command,) = write(job, local.plan(job))
  assert subprocess.run(command, check=False).returncode == 75
  assert (state / "log").read_text().splitlines() == [
    "   -m experiments.train --workdir=/runs/it's one --config=configs/a.py"
  ]


@pytest.mark.parametrize("hosts", [1, 2])
def test_slurm_starts_runs_again_that_stopped_early(programs, tmp_path, hosts):
  state = programs(
    sbatch=_SBATCH, srun=_SRUN, scontrol=_SCONTROL, python=_PYTHON
  )
  (state / "statuses").write_text("75\n75\n0\n1\n75\n")
  runs = tuple(
    job_lib.Run(str(n), f"runs/{n} 'x'", ("--config=a.py",)) for n in range(3)
  )
  job = make_job(tmp_path, runs=runs, hosts=hosts)
  (command,) = write(job, slurm.plan(job))
  subprocess.run(command, check=False)
  several = hosts == 2
  start = "node1:8476 2 1" if several else "  "
  train = [
    f"{start} -m experiments.train --workdir=runs/{n} 'x' --config=a.py"
    for n in range(3)
  ]
  assert (state / "log").read_text().splitlines() == [
    train[0], "requeued 100", train[0], "requeued 100", train[0],
    train[1],  # An error that would come back.
    train[2], "requeued 102", train[2],
  ]  # fmt: skip


@pytest.mark.slow  # Two trainings, the shortest there are.
def test_slurm_resumes_a_real_run(
  programs, script, tmp_path, monkeypatch, compile_cache
):
  for name, value in compile_cache.items():
    monkeypatch.setenv(name, value)
  state = programs(sbatch=_SBATCH, srun=_SRUN, scontrol=_SCONTROL)
  workdir = tmp_path / "run"
  done = script(
    "launch", "--where=slurm", "--execute", f"--config={_DIGITS}:smoke",
    f"--workdir={workdir}", f"--out={tmp_path / 'out'}", "--",
    # No start gets further than a step.
    "--config.num_steps=2", "--config.max_seconds=0.01",
  )  # fmt: skip
  assert done.status == 0, done.err
  assert "requeued 100" in (state / "log").read_text()
  results = json.loads((workdir / "results.json").read_text())
  assert results["steps"] == 2


_GCLOUD = """#!/usr/bin/env bash
echo "gcloud $3 $4" >> "$STATE/calls"
for word in "$@"; do
  case $word in --command=*) command=${word#--command=} ;; esac
done
case "$3 $4" in
  "queued-resources create")
    echo WAITING_FOR_RESOURCES > "$STATE/slice"
    mkdir "$STATE/host0" "$STATE/host1"
    ;;
  "queued-resources describe")
    if [ ! -e "$STATE/slice" ]; then
      echo "ERROR: NOT_FOUND: there is none" >&2
      exit 1
    fi
    cat "$STATE/slice"
    sed -i s/WAITING_FOR_RESOURCES/ACTIVE/ "$STATE/slice"
    ;;
  "queued-resources delete") rm -r "$STATE/slice" "$STATE"/host[01] ;;
  "tpu-vm ssh")
    for host in 0 1; do
      echo "SSH: connecting to worker $host"
      (cd "$STATE/host$host" && HOME=$PWD bash -c "$command")
    done
    ;;
  "tpu-vm scp")
    for host in 0 1; do cp "$5" "$6" "$7" "$STATE/host$host"; done
    ;;
esac
"""
_MAKE = """#!/usr/bin/env bash
mkdir -p .venv/bin
cp "$(command -v host_python)" .venv/bin/python
"""
# The first start stops early; the second takes the slice away; the third ends.
_HOST_PYTHON = """#!/usr/bin/env bash
[ "$2" = experiments.train ] || exit 0
echo "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $4" \\
  >> "$STATE/starts$JAX_PROCESS_ID"
case $(wc -l < "$STATE/starts$JAX_PROCESS_ID") in
  1) exit 75 ;;
  2) echo SUSPENDED > "$STATE/slice"; sleep 3; exit 143 ;;
  3) exit 1 ;;
esac
"""
_CURL = """#!/usr/bin/env bash
case "${!#}" in
  */worker-network-endpoints) echo "a:b:10.0.0.1,a:b:10.0.0.2" ;;
  */agent-worker-number) echo "${HOME: -1}" ;;
esac
"""


@pytest.fixture
def brings_up(programs, tmp_path, monkeypatch):
  """Returns a function that trains on a slice of two stand-ins for hosts."""

  def brings_up(**texts):
    nothing = "#!/usr/bin/env bash\n"
    state = programs(**{
      "gcloud": _GCLOUD, "make": _MAKE, "host_python": _HOST_PYTHON,
      "curl": _CURL, "uv": nothing, "mountpoint": nothing, "gcsfuse": nothing,
    } | texts)  # fmt: skip
    monkeypatch.setenv("INTERVAL", "0.2")
    checkout = tmp_path / "a checkout"
    checkout.mkdir()
    (checkout / "file").write_text("")
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c"]
    for words in (["init"], ["add", "."], ["commit", "-m", "a"]):
      command = [*git, "user.email=a", *words]
      subprocess.run(command, check=True, capture_output=True)
    job = make_job(
      tmp_path, root=checkout, accelerator="v5p:2x2x2", project="p",
      zone="z-a", mounts={"/runs": "gs://b"},
    )  # fmt: skip
    (command,) = write(job, tpu_vm.plan(job))
    done = subprocess.run(
      command, capture_output=True, text=True, check=False, timeout=200
    )
    return done, state, job.out

  return brings_up


def test_a_slice_is_asked_for_again_after_a_preemption(brings_up):
  done, state, out = brings_up()
  assert done.returncode == 1, done
  for host in (0, 1):
    assert (state / f"starts{host}").read_text().splitlines() == [
      "10.0.0.1:8476 2 --config=configs/a.py"
    ] * 3
  calls = (state / "calls").read_text().splitlines()
  assert calls.count("gcloud queued-resources create") == 2
  assert calls.count("gcloud queued-resources delete") == 2
  assert calls[-1] == "gcloud queued-resources delete"
  assert "the slice was lost" in done.stdout
  assert "training ended with status 1" in done.stdout
  assert "SSH: connecting to worker 0" in (out / "a-job.log").read_text()


def test_a_slice_that_cannot_be_set_up_is_deleted(brings_up):
  done, state, _ = brings_up(make="#!/usr/bin/env bash\nexit 1\n")
  assert done.returncode == 1
  assert done.stdout.count("trying again") == 4
  assert "can't be set up; deleting the slice" in done.stderr
  calls = (state / "calls").read_text().splitlines()
  assert calls[-1] == "gcloud queued-resources delete"


def test_programs_that_are_missing_are_named(refused, tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path))
  refused(
    "launch", "--where=slurm", "--execute", f"--config={_DIGITS}:smoke",
    f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}",
    parts=["no 'sbatch' on this machine"],
  )  # fmt: skip

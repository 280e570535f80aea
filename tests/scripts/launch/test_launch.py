"""Flags of `scripts.launch`, and its table of TPUs."""

import pytest
import tiny_runs

from perceiver_jax.errors import UserError
from scripts.launch import job as job_lib
from scripts.launch import machines

_CONFIG = "--config=configs/digits.py:smoke"
_CLOUD = (
  "--mounts=/runs=gs://bucket", "--workdir=/runs/a", "--zone=us-east5-b",
  "--project=p", "--accelerator=v5p:2x2x1", _CONFIG,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _in_checkout(monkeypatch):
  monkeypatch.chdir(tiny_runs.ROOT)


@pytest.mark.parametrize(
  ("flags", "parts"),
  [
    ((), ["--where is missing", "--help"]),
    (("--where=local", "--workdir=a"), ["--config is missing"]),
    (("--where=local", _CONFIG), ["--workdir is missing"]),
    (("--where=moon",), ["moon", "local|slurm"]),
    (
      ("--where=local", _CONFIG, "--workdir=a", "--spot"),
      ["--spot has no effect with --where=local"],
    ),
    (
      ("--where=local", _CONFIG, "--workdir=a", "--parallel=2"),
      ["--parallel=2 has no effect without --sweep"],
    ),
    (
      ("--where=slurm", _CONFIG, "--workdir=a", "--parallel=2"),
      ["--parallel has no effect with --where=slurm"],
    ),
    (
      ("--where=slurm", _CONFIG, "--workdir=a", "--zone=b"),
      ["--zone has no effect", "--accelerator, --hosts, --hours, --queue"],
    ),
    (
      ("--where=slurm", _CONFIG, "--workdir=a", "--accelerator=v5e:4x4"),
      ["v5e:4x4", "GPUs on Slurm"],
    ),
    (("--where=slurm", _CONFIG, "--workdir=a", "--hours=0.1"), ["too short"]),
    *(
      (("--where=slurm", _CONFIG, "--workdir=a", flag), [flag, part])
      for flag, part in (
        ("--hours=nan", "no time limit"),
        ("--hours=inf", "no time limit"),
        ("--queue=a b", "partition"),
        ("--accelerator=A100:eight", "GPU:NUMBER"),
        ("--accelerator=A100:0", "GPU:NUMBER"),
        ("--accelerator=A100:8 ", "GPU:NUMBER"),
        ("--accelerator=A100:", "GPU:NUMBER"),
      )
    ),
    (
      ("--where=slurm", _CONFIG, "--workdir=a", "--", "--config.sed=1"),
      ["did you mean 'seed'?"],
    ),
    (
      ("--where=slurm", _CONFIG, "--workdir=a", "--", "config.seed=1"),
      ["unexpected argument 'config.seed=1'"],
    ),
    (
      ("--where=slurm", "--config=configs/starcraft.py:small", "--workdir=a",
       "--sweep=baseline"),
      ["did you mean 'baselines'?"],
    ),
    (("--where=local", _CONFIG, "--workdir=a", "--name=A_b"), ["--name=A_b"]),
    (("--where=tpu-vm", *_CLOUD, "--zone="), ["--zone is missing"]),
    (("--where=tpu-vm", *_CLOUD, "--project="), ["--project is missing"]),
    (("--where=tpu-vm", *_CLOUD, "--workdir=a"), ["would be lost", "/runs"]),
    (("--where=tpu-vm", *_CLOUD, "--mounts=a"), ["PATH=gs://BUCKET"]),
    (
      ("--where=tpu-vm", *_CLOUD, "--workdir=/runs/../tmp/a"),
      ["/runs/../tmp/a would be lost"],
    ),
    (("--where=tpu-vm", *_CLOUD, "--mounts=/=gs://b"), ["PATH=gs://BUCKET"]),
    (
      ("--where=tpu-vm", *_CLOUD, "--mounts=/runs=gs://a,/runs/=gs://b"),
      ["/runs twice, with gs://a and gs://b"],
    ),
    (
      ("--where=skypilot", *_CLOUD[:3], _CONFIG, "--accelerator=v7e:4x4"),
      ["--accelerator=v7e:4x4", "GENERATION:TOPOLOGY"],
    ),
    (("--where=local", _CONFIG, "--workdir=gs://"), ["names no bucket"]),
    (("--where=local", _CONFIG, "--workdir=ftp://a"), ["ftp://a is neither"]),
    (
      ("--where=local", _CONFIG, "--workdir=a", "--out=gs://b"),
      ["--out=gs://b must be on a disk"],
    ),
    (
      ("--where=tpu-vm", *_CLOUD, "--accelerator=tpu7x:2x2x1"),
      ["no TPU7x", "compute-engine"],
    ),
    (("--where=tpu-vm", *_CLOUD, "--accelerator=A100:8"), ["is no TPU"]),
    (("--where=tpu-vm", *_CLOUD, "--accelerator=v5p:3x3x1"), ["2x2x1, 2x2x2"]),
    (("--where=tpu-vm", *_CLOUD, "--accelerator=tpu9:2x2"), ["no TPU 'tpu9'"]),
    (
      ("--where=compute-engine", *_CLOUD, "--accelerator=v5e:4x4"),
      ["v5p, v6e and TPU7x", "tpu-vm"],
    ),
    (("--where=gke", *_CLOUD[:2], *_CLOUD[4:]), ["--image is missing"]),
    (
      ("--where=gke", *_CLOUD[:2], _CONFIG, "--image=a",
       "--accelerator=v3:4x4"),
      ["v4 and later"],
    ),
    (
      ("--where=gke", *_CLOUD[:2], *_CLOUD[4:], "--image=a", "--queue=My_Q"),
      ["--queue=My_Q", "LocalQueue"],
    ),
    (
      ("--where=skypilot", *_CLOUD[:3], *_CLOUD[4:], "--hosts=2"),
      ["leave out --hosts"],
    ),
    (
      ("--where=skypilot", *_CLOUD[:3], _CONFIG, "--accelerator=tpu7x:2x2x1"),
      ["no TPU7x"],
    ),
  ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(refused, tmp_path, flags, parts):
  refused("launch", f"--out={tmp_path / 'out'}", *flags, parts=parts)
  assert not (tmp_path / "out").exists()


def test_an_out_that_is_no_folder_is_refused(refused, tmp_path):
  (tmp_path / "out").write_text("mine")
  refused(
    "launch", "--where=local", _CONFIG, "--workdir=a",
    f"--out={tmp_path / 'out'}", parts=["can't be written", "another --out"],
  )  # fmt: skip
  assert (tmp_path / "out").read_text() == "mine"


def test_the_files_of_another_job_are_not_replaced(script, refused, tmp_path):
  flags = ("--where=local", _CONFIG, f"--out={tmp_path}")
  for _ in range(2):  # The same job may be written again.
    assert script("launch", *flags, "--workdir=a").status == 0
  refused(
    "launch", *flags, "--workdir=b",
    parts=["run.sh has another job", "--name"],
  )  # fmt: skip
  assert "--workdir=a " in (tmp_path / "run.sh").read_text()


@pytest.mark.parametrize(
  ("accelerator", "gpus"),
  [
    ("", ""),
    ("8", "8"),
    ("A100", "a100:1"),
    ("A100-80GB:12", "a100-80gb:12"),
  ],
)
def test_gpus_have_a_kind_and_a_number(script, tmp_path, accelerator, gpus):
  done = script(
    "launch", "--where=slurm", _CONFIG, "--workdir=a", f"--out={tmp_path}",
    f"--accelerator={accelerator}",
  )  # fmt: skip
  assert done.status == 0, done.err
  text = (tmp_path / "job.sh").read_text()
  found = [x for x in text.splitlines() if x.startswith("#SBATCH --gpus")]
  assert found == [f"#SBATCH --gpus-per-node={gpus}"] * bool(gpus)


def test_configs_outside_the_checkout_stay_here(refused, script, tmp_path):
  path = tmp_path / "mine.py"
  path.write_text((tiny_runs.ROOT / "configs" / "digits.py").read_text())
  out = f"--out={tmp_path / 'out'}"
  flags = [f for f in _CLOUD if f != _CONFIG]
  refused(
    "launch", "--where=tpu-vm", *flags, f"--config={path}:smoke", out,
    parts=["outside the checkout"],
  )  # fmt: skip
  done = script(
    "launch", "--where=slurm", f"--config={path}:smoke", "--workdir=a", out
  )
  assert done.status == 0, done.err


def test_paths_of_configs_are_those_of_the_copied_checkout(script, tmp_path):
  flags = [f for f in _CLOUD if f != _CONFIG]
  config = tiny_runs.ROOT / "configs" / "digits.py"
  out = tmp_path / "out"
  done = script(
    "launch", "--where=tpu-vm", *flags, f"--config={config}:smoke",
    f"--out={out}", "--name=a",
  )  # fmt: skip
  assert done.status == 0, done.err
  assert (
    " --config=configs/digits.py:smoke " in (out / "a.worker.sh").read_text()
  )
  assert done.out.splitlines()[-1] == f"bash {out / 'a.sh'} up"


def test_points_of_a_sweep_are_jobs(script, tmp_path):
  out = tmp_path / "out"
  done = script(
    "launch", "--where=slurm", "--config=configs/starcraft.py:small",
    "--sweep=baselines", "--workdir=runs/s", f"--out={out}", "--accelerator=8",
    "--", "--config.seed=3",
  )  # fmt: skip
  assert done.status == 0, done.err
  text = (out / "job.sh").read_text()
  assert "#SBATCH --array=0-2\n" in text
  assert "#SBATCH --gpus-per-node=8\n" in text
  for variant in ("small", "small_transformer", "small_pooling"):
    assert f"--workdir=runs/s/variant={variant} " in text
  assert text.count("--config.seed=3") == 3


def test_names_of_jobs_follow_from_the_config(script, tmp_path, monkeypatch):
  config = f"--config={tiny_runs.ROOT}/configs/modelnet40.py:small"
  monkeypatch.chdir(tmp_path)
  done = script(
    "launch", "--where=local", config, "--sweep=baselines", "--workdir=runs/a",
    "--parallel=2",
  )  # fmt: skip
  assert done.status == 0, done.err
  text = (tmp_path / "launch/modelnet40-small-baselines/run.sh").read_text()
  assert "-m scripts.sweep" in text
  assert "--parallel=2 --" in text
  assert "--out=runs/a" in text


@pytest.mark.parametrize(
  ("text", "hosts", "machine", "accelerator"),
  [
    # From the tables of Google Cloud's pages.
    ("v2:4x4", 4, "", "v2-32"),
    ("v3:2x2", 1, "", "v3-8"),
    ("v4:2x2x1", 1, "ct4p-hightpu-4t", "v4-8"),
    ("v4:4x4x4", 16, "ct4p-hightpu-4t", "v4-128"),
    ("v5e:1x1", 1, "ct5lp-hightpu-1t", "v5litepod-1"),
    ("v5e:2x4", 1, "ct5lp-hightpu-8t", "v5litepod-8"),
    ("v5e:16x16", 64, "ct5lp-hightpu-4t", "v5litepod-256"),
    ("v5p:2x2x2", 2, "ct5p-hightpu-4t", "v5p-16"),
    ("v6e:2x2", 1, "ct6e-standard-4t", "v6e-4"),
    ("v6e:4x8", 8, "ct6e-standard-4t", "v6e-32"),
    ("tpu7x:2x2x1", 1, "tpu7x-standard-4t", "-8"),
    ("tpu7x:4x4x4", 16, "tpu7x-standard-4t", "-128"),
  ],
)
def test_slices_have_the_documented_hosts(text, hosts, machine, accelerator):
  tpu = machines.parse(text)
  assert (tpu.hosts, tpu.machine_type) == (hosts, machine)
  assert tpu.accelerator_type == accelerator


def test_every_slice_has_whole_hosts():
  for name, generation in machines.GENERATIONS.items():
    for topology in generation.topologies:
      tpu = machines.parse(f"{name}:{topology}")
      assert tpu.hosts * tpu.chips_per_host == tpu.chips
      assert tpu.chips_per_host in generation.machine_types


def test_buckets_have_a_path_a_name_and_a_folder():
  mounts = job_lib.parse_mounts(["/a/=gs://b", "/c=gs://d/e/f/"])
  assert mounts == {"/a": "gs://b", "/c": "gs://d/e/f/"}
  with pytest.raises(UserError, match="absolute path"):
    job_lib.parse_mounts(["a=gs://b"])

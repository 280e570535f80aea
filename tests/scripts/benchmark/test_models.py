import json
import subprocess
import sys

import jax
import pytest
import tiny_runs as runs
import tiny_weights

from perceiver_jax.models import zoo
from perceiver_jax.models.ops.execution import Execution
from perceiver_jax.weights.huggingface import config as huggingface_config
from scripts import model_table
from scripts.benchmark import published as figures
from scripts.benchmark import scaling

pytestmark = pytest.mark.usefixtures("compile_once")

_COLUMNS = ["model", "implementation", "compile", "forward", "forward MiB",
            "GFLOP", "GFLOP by XLA", "of peak", "compile step", "step",
            "step / 3 forward", "step MiB"]  # fmt: skip

# Makes packages that the models do not need impossible to import.
_MODELS_ONLY = """
import sys
for name in ("optax", "ml_collections", "grain", "cv2", "orbax", "matplotlib",
             "sklearn", "tensorflow_datasets", "jaxtyping", "torch"):
  sys.modules[name] = None
import runpy
runpy.run_module("scripts.benchmark", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def with_baseline(monkeypatch):
  """Replaces the conversion of a spec to a config of transformers."""
  monkeypatch.setattr(
    huggingface_config,
    "config_from_spec",
    lambda *_: ("PerceiverForMaskedLM", {"num_latents": 8}),
  )


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  """Makes models of the papers small."""
  size = tiny_weights.IMAGE_SIZE
  for name, small, raw in (
    ("imagenet_fourier", tiny_weights.classifier(), (size, size, 3)),
    ("imagenet_icml", tiny_weights.classifier(), (size, size, 3)),
    ("language_bytes", tiny_weights.language(), (tiny_weights.LENGTH,)),
  ):
    dtype = "int32" if name == "language_bytes" else "float32"
    entry = zoo.MODELS[name]._replace(
      spec=small.spec, raw=tiny_weights.array(*raw, dtype=dtype)
    )
    monkeypatch.setitem(zoo.MODELS, name, entry)


@pytest.mark.slow  # It compiles four models and their train steps.
def test_every_model_and_implementation_has_a_row(script, tmp_path):
  path = tmp_path / "figures.json"
  done = script(
    "benchmark",
    *("--models=imagenet_fourier,language_bytes", "--repeats=1"),
    *(
      "--implementations=auto,scan_layers=False+absorb_projections=never",
      f"--json={path}",
    ),
  )
  assert (done.status, done.err) == (0, "")
  saved = json.loads(path.read_text())
  assert saved["jax"] == jax.__version__
  assert saved["peak"] > 0
  assert [(row["model"], row["implementation"]) for row in saved["rows"]] == [
    (model, implementation)
    for model in ("imagenet_fourier", "language_bytes")
    for implementation in ("auto", "scan_layers=False+absorb_projections=never")
  ]
  for row in saved["rows"]:
    assert list(row) == _COLUMNS
    assert all(row[name] > 0 for name in _COLUMNS[2:])
    share = row["GFLOP"] * 1e9 / row["forward"] / saved["peak"]
    assert row["of peak"] == pytest.approx(share)
    ratio = row["step"] / row["forward"] / 3
    assert row["step / 3 forward"] == pytest.approx(ratio)
  table = done.out.splitlines()[-7:-2]  # Two ratios are printed after it.
  assert table[0].split() == " ".join(_COLUMNS).split()
  assert len({len(line) for line in table}) == 1
  assert f"{saved['rows'][1]['GFLOP']:,.4g}" in table[2].split()


@pytest.mark.slow  # It compiles a train step.
def test_a_train_step_of_lamb_can_be_timed(script, tmp_path):
  path = tmp_path / "figures.json"
  flags = ["--optimizer=lamb", "--repeats=1", f"--json={path}"]
  assert script("benchmark", *flags).status == 0
  (row,) = json.loads(path.read_text())["rows"]
  assert row["step"] > 0


def test_models_can_be_compiled_without_running_them(script, tmp_path):
  path = tmp_path / "figures.json"
  done = script("benchmark", "--norun", "--notrain", f"--json={path}")
  assert (done.status, done.err) == (0, "")
  (row,) = json.loads(path.read_text())["rows"]
  assert row["forward MiB"] > 0
  assert "forward" not in row


def test_a_baseline_is_timed_in_its_own_process(
  script, tmp_path, monkeypatch, with_baseline
):
  calls = []

  def answer(command, *, input, **_):
    calls.append((command[1:], json.loads(input)))
    # A baseline may print warnings before its figures.
    text = 'a warning\n{"forward": 2.0, "step": 5.0, "compile step": 30}\n'
    return subprocess.CompletedProcess(command, 0, text)

  monkeypatch.setattr(subprocess, "run", answer)
  path = tmp_path / "figures.json"
  flags = ["--models=language_bytes", "--notrain", "--repeats=1"]
  done = script(
    "benchmark", *flags, "--baseline=transformers", f"--json={path}"
  )
  assert (done.status, done.err) == (0, "")
  assert [request["is_compiled"] for _, request in calls] == [False, True]
  command, request = calls[0]
  assert command == ["-m", "scripts.benchmark.baselines"]
  assert request["package"] == "transformers"
  assert request["architecture"] == "PerceiverForMaskedLM"
  assert request["is_text"]
  assert request["shape"] == [1, tiny_weights.LENGTH]
  ours, theirs, compiled = json.loads(path.read_text())["rows"]
  assert theirs["implementation"] == "transformers"
  assert compiled["implementation"] == "transformers compiled"
  ratio = f"forward {2.0 / ours['forward']:.3g} x"
  lines = done.out.splitlines()[-2:]
  assert lines[0] == f"language_bytes: transformers over auto: {ratio}"


def test_perceiver_pytorch_is_given_the_papers_model(script, monkeypatch):
  requests = []

  def answer(command, *, input, **_):
    requests.append(json.loads(input))
    return subprocess.CompletedProcess(command, 0, '{"forward": 2.0}\n')

  monkeypatch.setattr(subprocess, "run", answer)
  flags = ["--models=imagenet_icml", "--notrain", "--repeats=1"]
  done = script("benchmark", *flags, "--baseline=perceiver_pytorch")
  assert (done.status, done.err) == (0, "")
  request = requests[0]
  assert request["package"] == "perceiver_pytorch"
  assert request["architecture"] == "Perceiver"
  config, encoder = request["config"], zoo.get_spec("imagenet_icml")["encoder"]
  assert config["depth"] == encoder["num_blocks"]
  assert config["self_per_cross_attn"] == encoder["num_self_attends_per_block"]
  width = config["latent_heads"] * config["latent_dim_head"]
  assert width == encoder["num_latent_channels"]
  # Three colors, and per axis the position, 2 sines and 2 cosines.
  assert config["cross_dim_head"] == 3 + 2 * (1 + 2 * 2)


def test_perceiver_pytorch_is_refused_for_models_of_perceiver_io(refused):
  flags = ["--notrain", "--repeats=1", "--baseline=perceiver_pytorch"]
  refused("benchmark", *flags, parts=["no imagenet_fourier", "imagenet_icml"])


def test_a_failing_baseline_is_refused(refused, monkeypatch, with_baseline):
  failed = lambda command, **_: subprocess.CompletedProcess(command, 1, "")
  monkeypatch.setattr(subprocess, "run", failed)
  flags = ["--notrain", "--repeats=1", "--baseline=transformers"]
  refused("benchmark", *flags, parts=["--baseline=transformers", "failed"])


def test_scaling_can_be_compiled_without_running(script, tmp_path, monkeypatch):
  monkeypatch.setattr(scaling, "SIZES", (64,))
  path = tmp_path / "figures.json"
  done = script(
    "benchmark", "--scaling", "--norun", "--repeats=1", f"--json={path}"
  )
  assert (done.status, done.err) == (0, "")
  (row,) = json.loads(path.read_text())["rows"]
  assert list(row) == [
    "inputs", "implementation", "forward MiB", "and backward MiB",
  ]  # fmt: skip


@pytest.mark.slow  # It compiles four cross-attends.
def test_scaling_has_a_row_per_size(script, tmp_path, monkeypatch):
  monkeypatch.setattr(scaling, "SIZES", (64, 256))
  path = tmp_path / "figures.json"
  done = script("benchmark", "--scaling", "--repeats=1", f"--json={path}")
  assert (done.status, done.err) == (0, "")
  rows = json.loads(path.read_text())["rows"]
  assert [row["inputs"] for row in rows] == ["64", "256"]
  for row in rows:
    size = int(row["inputs"])
    assert row["us per input"] == pytest.approx(row["forward"] / size * 1e6)
    assert 0 < row["forward MiB"] <= row["and backward MiB"]


@pytest.mark.slow  # It starts a process.
def test_the_benchmark_needs_only_jax_and_haiku(tmp_path):
  done = subprocess.run(
    [sys.executable, "-c", _MODELS_ONLY, "--models=starcraft", "--norun"],
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1].split()[:2] == ["starcraft", "auto"]


def test_only_the_forward_pass_of_a_batch_can_be_timed(script, tmp_path):
  path = tmp_path / "figures.json"
  flags = ["--notrain", "--batch_size=2", "--repeats=1", f"--json={path}"]
  done = script("benchmark", *flags)
  assert (done.status, done.err) == (0, "")
  assert "batch 2" in done.out
  (row,) = json.loads(path.read_text())["rows"]
  assert list(row) == _COLUMNS[:8]
  cells = done.out.splitlines()[-1].split()
  assert cells[:2] == ["imagenet_fourier", "auto"]
  assert cells[3] == f"{row['forward']:,.4g}"


@pytest.mark.parametrize(
  ("arguments", "parts"),
  [
    (["--models=vit"], ["--models", "'vit'", "imagenet_fourier"]),
    (["--models="], ["--models is empty"]),
    (["--implementations="], ["--implementations is empty"]),
    (
      ["--implementations=fast"],
      ["--implementations=fast", "fast", "attention", "remat"],
    ),
    (
      ["--implementations=remat=all"],
      ["--implementations=remat=all", "dots, projections"],
    ),
    (
      ["--implementations=remat"],
      ["--implementations=remat", "dots, projections"],
    ),
    (["models=flow"], ["'models=flow'", "--"]),
    (["--batch_size=0"], ["--batch_size=0"]),
    (["--json=/dev/null/a.json"], ["--json=/dev/null/a.json", "another"]),
    (
      ["--baseline=keras"],
      ["--baseline=keras", "none|transformers|perceiver_pytorch"],
    ),
  ],
)
def test_invalid_flags_are_refused(refused, arguments, parts):
  done = refused("benchmark", *arguments, parts=parts)
  assert done.out == ""


def test_a_mistyped_flag_is_told_in_one_line():
  done = subprocess.run(
    [sys.executable, "-m", "scripts.benchmark", "--model=flow"],
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: Unknown command line flag 'model'")


@pytest.mark.parametrize(
  ("name", "arguments", "parts"),
  [
    *(
      (
        name,
        ["--json=/dev/null/a.json"],
        ["/dev/null/a.json", "another"],
      )
      for name in ("clips", "entities", "input_size", "points", "sampling")
    ),
    ("input_size", ["--models=flow"], ["'flow'", "hip_256"]),
    ("input_size", ["--models="], ["''", "hip_256"]),
    ("sampling", ["--num_channels=30"], ["multiple of 4"]),
    ("sampling", ["--num_channels=0"], ["multiple of 4"]),
  ],
)
def test_other_benchmarks_refuse_before_measuring(
  refused, name, arguments, parts
):
  done = refused(f"benchmark.{name}", *arguments, parts=parts)
  assert done.out == ""


def _published_row(done, *cells):
  """Returns the cells of the table's row that starts with `cells`."""
  lines = [line.split("  ") for line in done.out.splitlines()]
  rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
  (row,) = [row for row in rows if tuple(row[: len(cells)]) == cells]
  return row


@pytest.mark.slow  # Compiles a train step.
def test_train_steps_are_beside_the_papers(script, tmp_path):
  path = tmp_path / "figures.json"
  flags = ["--published", "--batch_size=2", "--repeats=1", f"--json={path}"]
  done = script("benchmark", *flags)
  assert (done.status, done.err) == (0, "")
  paper, ours = json.loads(path.read_text())["rows"]
  assert paper["measured on"] == "TPU v3 (Table 8)"
  assert (paper["devices"], paper["batch"]) == (64, 1024)
  assert paper["steps/s"] == 4.85
  assert paper["examples/s/device"] == pytest.approx(4.85 * 1024 / 64)
  assert (ours["devices"], ours["batch"]) == (1, 2)
  assert ours["examples/s/device"] == pytest.approx(2 * ours["steps/s"])
  ratio = paper["examples/s/device"] / ours["examples/s/device"]
  assert f"is {ratio:.3g} x as fast" in done.out.splitlines()[-1]


def test_operations_are_counted_without_running(script):
  done = script("benchmark", "--published", "--norun")
  assert (done.status, done.err) == (0, "")
  row = _published_row(done, "imagenet_fourier", "TPU v3 (Table 8)")
  assert row[2:6] == ["64", "1,024", "4.85", "77.6"]
  entry = zoo.MODELS["imagenet_fourier"]
  _, count = model_table.sizes(entry.spec, entry.example())
  ours = _published_row(done, "imagenet_fourier", "cpu")
  assert f"{count / 1e9:,.4g}" in ours


@pytest.mark.parametrize(
  ("name", "training", "published"),
  [("kinetics_784", 260.3, 310), ("language_bytes_plus_plus", 240.9, None)],
)
def test_training_operations_of_the_published_sizes(name, training, published):
  rows = figures.measure(
    name, Execution(), batch_size=1, repeats=1, optimizer="sgd", run=False
  )
  paper, ours = rows
  assert ours["training GFLOP"] == pytest.approx(training, rel=1e-3)
  assert paper["training GFLOP"] == (published or "-")
  # The backward pass costs twice the forward pass, without that of pixels.
  assert 2.5 < ours["step GFLOP"] / ours["training GFLOP"] <= 3.01


def test_frames_of_flow_are_those_of_six_tiles(script):
  flags = ["--published", "--norun", "--models=flow_conv_light"]
  done = script("benchmark", *flags)
  assert (done.status, done.err) == (0, "")
  assert "3.3" in _published_row(done, "flow_conv_light", "TITAN Xp")
  assert "17.8" in _published_row(done, "flow_conv_light", "TPU v3 core")
  assert _published_row(done, "flow_conv_light", "cpu")[-2] == "6"


@pytest.mark.slow  # Compiles a flow model.
def test_frames_of_flow_are_timed(monkeypatch):
  flow = tiny_weights.flow()
  entry = zoo.MODELS["flow"]._replace(
    spec=flow.spec, raw=tiny_weights.array(2, *tiny_weights.TILE, 3)
  )
  monkeypatch.setitem(zoo.MODELS, "flow", entry)
  monkeypatch.setattr(figures, "_FLOW_SIZE", (36, 60))
  rows = figures.measure(
    "flow", Execution(), batch_size=1, repeats=1, optimizer="sgd", run=True
  )
  ours = rows[-1]
  assert ours["frames/s"] == pytest.approx(1 / ours["seconds"])
  titan = next(row for row in rows if row["measured on"] == "TITAN Xp")
  assert titan["frames/s"] == 0.8


def test_models_without_a_published_speed_are_named(refused):
  refused(
    "benchmark", "--published", "--models=imagenet_icml",
    parts=["imagenet_icml", "imagenet_fourier"],
  )  # fmt: skip

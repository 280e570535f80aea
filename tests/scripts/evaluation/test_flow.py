"""Tests of evaluating and submitting flow from the command line."""

import json

import numpy as np
import pytest
import tiny_runs as runs
import tiny_weights
from jax import numpy as jnp

from perceiver_jax import weights
from perceiver_jax.data.flow import files as flow_files
from perceiver_jax.data.images import codec
from perceiver_jax.evaluation import flow_baselines, tiling
from perceiver_jax.models.modalities import flow as flow_adapter

pytestmark = pytest.mark.usefixtures("compile_once")

SIZE = (tiny_weights.TILE[0] + 3, tiny_weights.TILE[1] + 5)


@pytest.fixture
def flag(tmp_path):
  """--weights of a tiny model."""
  file = tmp_path / "flow.safetensors"
  weights.save(file, tiny_weights.flow())
  return f"--weights={file}"


def predicted(first, second):
  """What the tiny model says of two frames, tile by tile."""

  def predict(frames):
    raw = (frames / 127.5 - 1).astype(np.float32)
    outputs = tiny_weights.outputs(tiny_weights.flow(), raw)
    return np.asarray(flow_adapter.in_pixels(jnp.asarray(outputs.logits)))

  frames = np.stack([first, second])
  overlap = tiling.overlap(tiny_weights.TILE)
  return tiling.tiled_flow(
    frames, predict, tile=tiny_weights.TILE, min_overlap=overlap
  )


def make_frame(seed):
  return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def write(path, image):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(codec.encode_png(image))


def sintel(root, part):
  for render in ("clean", "final"):
    for frame in (1, 2, 3):
      name = f"{render}/cave_2/frame_{frame:04}.png"
      write(root / part / name, make_frame(frame))
  return root


@pytest.fixture
def labeled_sintel(tmp_path):
  """Returns Sintel's training split of two pairs, and their flow of (3, 4)."""
  root = sintel(tmp_path / "sintel", "training")
  truth = np.full((*SIZE, 2), (3.0, 4.0), np.float32)
  for frame in (1, 2):
    path = root / f"training/flow/cave_2/frame_{frame:04}.flo"
    path.parent.mkdir(parents=True, exist_ok=True)
    flow_files.write_flow(path, truth)
  return root, truth


def benchmark_flags(variant="smoke", **leaves):
  config = runs.ROOT / "configs" / "optical_flow.py"
  given = [
    f"--config.data.benchmarks.{name}={leaf}" for name, leaf in leaves.items()
  ]
  return [f"--config={config}:{variant}", *given]


def test_benchmarks_are_evaluated_at_full_resolution(
  call, flag, tmp_path, labeled_sintel
):
  root, truth = labeled_sintel
  file = tmp_path / "new" / "metrics.json"
  flags = benchmark_flags("main", sintel=root)
  done = call("evaluate", flag, *flags, f"--out={file}")
  assert (done.status, done.err) == (0, "")
  record = json.loads(file.read_text())
  assert record["num_examples"] == {"sintel_clean": 2, "sintel_final": 2}
  pairs = [(make_frame(1), make_frame(2)), (make_frame(2), make_frame(3))]
  errors = [np.linalg.norm(predicted(*p) - truth, axis=-1) for p in pairs]
  for name in ("sintel_clean", "sintel_final"):
    error = record["metrics"][f"{name}/epe"]
    assert error == pytest.approx(np.mean(errors), rel=1e-3)
    zero = record["metrics"][f"{name}/zero_epe"]
    assert zero == pytest.approx(5, rel=1e-4)
  # The tiny model is not the one of the paper's row.
  assert record["published"] == {}
  assert not any(name.startswith("eval/") for name in record["metrics"])


def test_benchmarks_without_folders_are_evaluated_and_drawn(
  call, flag, tmp_path
):
  flags = benchmark_flags(rendered=True, motorcycle=0.06, tiles="released")
  done = call("evaluate", flag, *flags, f"--images={tmp_path}/new")
  assert (done.status, done.err) == (0, "")
  assert "rendered/epe_occluded" in done.out
  assert "motorcycle/epe" in done.out
  four, one = (
    codec.read_image(tmp_path / "new" / f"{name}.png").shape[0]
    for name in ("rendered", "motorcycle")
  )
  assert four > 2 * one


@pytest.mark.slow
def test_a_run_and_its_weights_have_the_same_errors(call, tmp_path):
  run, out = tmp_path / "run", tmp_path / "metrics.json"
  (config,) = benchmark_flags()
  assert call("train", config, f"--workdir={run}").status == 0
  metrics = []
  for model in (f"--workdir={run}", f"--weights={run}"):
    flags = benchmark_flags(motorcycle=0.06)
    assert call("evaluate", model, *flags, f"--out={out}").status == 0
    metrics.append(json.loads(out.read_text())["metrics"])
  assert metrics[0] == pytest.approx(metrics[1], rel=1e-6)
  assert metrics[0]["motorcycle/zero_epe"] > 1


def test_each_dataset_has_the_errors_of_classical_methods(
  script, tmp_path, labeled_sintel
):
  root, _ = labeled_sintel
  file = tmp_path / "new" / "metrics.json"
  done = script(
    "evaluation.flow_baselines", *benchmark_flags(sintel=root), f"--out={file}"
  )
  assert (done.status, done.err) == (0, "")
  assert "sintel_clean: 2 pairs" in done.out
  metrics = json.loads(file.read_text())
  assert list(metrics) == ["sintel_clean", "sintel_final"]
  assert list(metrics["sintel_final"]) == ["no motion", "Farneback", "DIS"]
  error = metrics["sintel_clean"]["no motion"]["epe"]
  assert error == pytest.approx(5, rel=1e-4)


def test_a_submission_to_sintel_has_the_flow_of_the_model(
  script, flag, tmp_path
):
  root = sintel(tmp_path / "sintel", "test")
  done = script(
    "evaluation.submit_flow", flag, f"--sintel={root}", tmp_path / "out"
  )
  assert (done.status, done.err) == (0, "")
  assert "4 files" in done.out
  files = sorted(
    str(p.relative_to(tmp_path / "out"))
    for p in (tmp_path / "out").rglob("*.*")
  )
  assert files == [
    f"{render}/cave_2/frame000{i}.flo"
    for render in ("clean", "final")
    for i in (1, 2)
  ]
  flow = flow_files.read_flow(tmp_path / "out/final/cave_2/frame0002.flo")
  expected = predicted(make_frame(2), make_frame(3))
  np.testing.assert_allclose(flow, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
  ("year", "camera", "folder"),
  [("2012", "colored_0", "."), ("2015", "image_2", "flow")],
)
def test_a_submission_to_kitti_has_the_flow_of_the_model(
  script, flag, tmp_path, year, camera, folder
):
  for i in (0, 7):
    for frame in (10, 11):
      name = f"testing/{camera}/{i:06}_{frame}.png"
      write(tmp_path / "kitti" / name, make_frame(frame + i))
  root, out = tmp_path / "kitti", tmp_path / "out"
  done = script("evaluation.submit_flow", flag, f"--kitti_{year}={root}", out)
  assert (done.status, done.err) == (0, "")
  files = sorted(p.name for p in (out / folder).glob("*.png"))
  assert files == ["000000_10.png", "000007_10.png"]
  flow = flow_files.read_flow(out / folder / "000007_10.png")
  expected = predicted(make_frame(17), make_frame(18))
  np.testing.assert_allclose(flow, expected, atol=1 / 100)


@pytest.mark.parametrize(
  ("name", "arguments", "parts"),
  [
    ("evaluation.submit_flow", [], ["one folder"]),
    ("evaluation.submit_flow", ["out"], ["--kitti_2015=DIR"]),
    (
      "evaluation.submit_flow",
      ["out", "--sintel=a", "--kitti_2012=b"],
      ["one data set"],
    ),
    ("evaluation.submit_flow", ["out", "--sintel=no/such"], ["no/such"]),
    (
      "evaluation.submit_flow",
      ["out", "--workdir=run"],
      ["--workdir and --weights are given"],
    ),
  ],
)
def test_bad_input_is_one_line(refused, flag, name, arguments, parts):
  refused(name, flag, *arguments, parts=parts)


@pytest.mark.parametrize(
  ("leaves", "parts"),
  [
    ({"sintel": "no/such"}, ["no/such", "no folder"]),
    ({"motorcycle": 2}, ["scale 2", "0.05 to 1"]),
    ({"rendered": True, "tiles": "x"}, ["benchmarks.tiles", "even, released"]),
    ({"kitti_2016": "x"}, ["kitti_2016", "kitti_2015"]),
  ],
)
def test_bad_benchmarks_are_one_line(refuses, refused, flag, leaves, parts):
  flags = benchmark_flags(**leaves)
  refuses("evaluate", flag, *flags, parts=parts)
  refused("evaluation.flow_baselines", *flags, parts=parts)


def test_baselines_need_a_data_set_and_a_config_of_flow(refused):
  (config,) = benchmark_flags()
  parts = ["no data set is given", "config.data.benchmarks", "kitti_2012"]
  refused("evaluation.flow_baselines", config, parts=parts)
  digits = f"--config={runs.ROOT / 'configs' / 'digits.py'}"
  refused("evaluation.flow_baselines", digits, parts=["optical flow"])
  refused("evaluation.flow_baselines", parts=["--config is missing"])


def test_metrics_are_kept_data_set_by_data_set(script, tmp_path, monkeypatch):
  file = tmp_path / "metrics.json"
  evaluated = []

  def evaluate(pairs, estimate, progress):
    evaluated.append(progress)
    if len(evaluated) == 4:
      raise KeyboardInterrupt
    return {"epe": 1.0}

  monkeypatch.setattr(flow_baselines, "evaluate", evaluate)
  flags = benchmark_flags(rendered=True, motorcycle=0.06)
  done = script("evaluation.flow_baselines", *flags, f"--out={file}")
  assert done.status == 130
  assert list(json.loads(file.read_text())) == ["rendered"]


def test_nothing_is_evaluated_that_cannot_be_written(
  refused, refuses, flag, tmp_path, monkeypatch
):
  taken = tmp_path / "taken"
  taken.write_text("")
  monkeypatch.setattr(tiling, "tiled_flow", None)
  monkeypatch.setattr(flow_baselines, "evaluate", None)
  flags = benchmark_flags(motorcycle=0.06)
  for given in (f"--out={taken}/a.json", f"--images={taken}"):
    advice = f"another {given.split('=')[0]}"
    refuses("evaluate", flag, *flags, given, parts=["taken", advice])
  refused(
    "evaluation.flow_baselines", *flags, f"--out={taken}/a.json",
    parts=["a.json", "another --out"],
  )  # fmt: skip
  given = f"--sintel={sintel(tmp_path / 'sintel', 'test')}"
  parts = ["another folder"]
  refused("evaluation.submit_flow", flag, given, f"{taken}/out", parts=parts)


def test_without_weights(refused, tmp_path):
  parts = ["--weights", "optical_flow_checkpoint.pystate"]
  given = f"--sintel={sintel(tmp_path / 'sintel', 'test')}"
  refused("evaluation.submit_flow", given, tmp_path / "out", parts=parts)

"""Scoring and submitting flow from the command line."""

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


def picture(seed):
  return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def write(path, image):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(codec.encode_png(image))


def sintel(root, part):
  for render in ("clean", "final"):
    for frame in (1, 2, 3):
      name = f"{render}/cave_2/frame_{frame:04}.png"
      write(root / part / name, picture(frame))
  return root


def test_a_table_a_data_set_with_baselines_and_the_published_row(
  script, flag, tmp_path
):
  root = sintel(tmp_path / "sintel", "training")
  truth = np.full((*SIZE, 2), (3.0, 4.0), np.float32)
  for frame in (1, 2):
    path = root / f"training/flow/cave_2/frame_{frame:04}.flo"
    path.parent.mkdir(parents=True, exist_ok=True)
    flow_files.write_flow(path, truth)
  file = tmp_path / "new" / "figures.json"
  done = script(
    "evaluation.evaluate_flow",
    flag,
    f"--sintel={root}",
    "--row=main",
    f"--json={file}",
  )
  assert (done.status, done.err) == (0, "")
  found = json.loads(file.read_text())
  assert list(found) == ["sintel_clean", "sintel_final"]
  clean = found["sintel_clean"]
  assert list(clean) == ["model", "no motion", "Farneback", "DIS"]
  assert clean["no motion"]["epe"] == pytest.approx(5, rel=1e-4)
  pairs = [(picture(1), picture(2)), (picture(2), picture(3))]
  errors = [np.linalg.norm(predicted(*p) - truth, axis=-1) for p in pairs]
  assert clean["model"]["epe"] == pytest.approx(np.mean(errors), rel=1e-3)
  assert "sintel_clean: 2 pairs" in done.out
  lines = [line.split() for line in done.out.splitlines()]
  assert [line[1] for line in lines if line[:1] == ["published"]] == [
    "1.81", "2.42",
  ]  # fmt: skip


def test_pairs_that_need_no_folder(script, flag, tmp_path):
  config = runs.ROOT / "configs" / "optical_flow.py"
  done = script(
    "evaluation.evaluate_flow", flag, f"--config={config}:smoke", "--rendered",
    "--motorcycle=0.06", "--nobaselines", f"--images={tmp_path}",
  )  # fmt: skip
  assert (done.status, done.err) == (0, "")
  assert "rendered: 16 pairs" in done.out
  assert "motorcycle: 1 pairs" in done.out
  assert "Farneback" not in done.out
  four, one = (
    codec.read_image(tmp_path / f"{name}.png").shape[0]
    for name in ("rendered", "motorcycle")
  )
  assert four > 2 * one


def test_a_submission_to_sintel(script, flag, tmp_path):
  root = sintel(tmp_path / "sintel", "test")
  done = script(
    "evaluation.submit_flow", flag, f"--sintel={root}", tmp_path / "out"
  )
  assert (done.status, done.err) == (0, "")
  assert "4 files" in done.out
  found = sorted(
    str(p.relative_to(tmp_path / "out"))
    for p in (tmp_path / "out").rglob("*.*")
  )
  assert found == [
    f"{render}/cave_2/frame000{i}.flo"
    for render in ("clean", "final")
    for i in (1, 2)
  ]
  flow = flow_files.read_flow(tmp_path / "out/final/cave_2/frame0002.flo")
  want = predicted(picture(2), picture(3))
  np.testing.assert_allclose(flow, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
  ("year", "camera", "folder"),
  [("2012", "colored_0", "."), ("2015", "image_2", "flow")],
)
def test_a_submission_to_kitti(script, flag, tmp_path, year, camera, folder):
  for i in (0, 7):
    for frame in (10, 11):
      name = f"testing/{camera}/{i:06}_{frame}.png"
      write(tmp_path / "kitti" / name, picture(frame + i))
  root, out = tmp_path / "kitti", tmp_path / "out"
  done = script("evaluation.submit_flow", flag, f"--kitti_{year}={root}", out)
  assert (done.status, done.err) == (0, "")
  found = sorted(p.name for p in (out / folder).glob("*.png"))
  assert found == ["000000_10.png", "000007_10.png"]
  flow = flow_files.read_flow(out / folder / "000007_10.png")
  want = predicted(picture(17), picture(18))
  np.testing.assert_allclose(flow, want, atol=1 / 100)


@pytest.mark.parametrize(
  ("name", "arguments", "parts"),
  [
    ("evaluation.evaluate_flow", [], ["--sintel=DIR", "--motorcycle=SCALE"]),
    (
      "evaluation.evaluate_flow",
      ["--sintel=no/such"],
      ["no/such", "no folder"],
    ),
    (
      "evaluation.evaluate_flow",
      ["--motorcycle=0.5", "--row=x"],
      ["unknown variant"],
    ),
    ("evaluation.evaluate_flow", ["--motorcycle=2"], ["--motorcycle=2"]),
    ("evaluation.submit_flow", [], ["one folder"]),
    ("evaluation.submit_flow", ["out"], ["--kitti_2015=DIR"]),
    (
      "evaluation.submit_flow",
      ["out", "--sintel=a", "--kitti_2012=b"],
      ["one data set"],
    ),
    ("evaluation.submit_flow", ["out", "--sintel=no/such"], ["no/such"]),
  ],
)
def test_bad_input_is_one_line(refused, flag, name, arguments, parts):
  refused(name, flag, *arguments, parts=parts)


def test_figures_are_kept_data_set_by_data_set(
  script, flag, tmp_path, monkeypatch
):
  file = tmp_path / "figures.json"
  scored = []

  def evaluate(pairs, estimate, progress):
    scored.append(progress)
    if len(scored) == 2:
      raise KeyboardInterrupt
    return {"epe": 1.0}

  monkeypatch.setattr(flow_baselines, "evaluate", evaluate)
  config = runs.ROOT / "configs" / "optical_flow.py"
  done = script(
    "evaluation.evaluate_flow", flag, f"--config={config}:smoke", "--rendered",
    "--motorcycle=0.06", "--nobaselines", f"--json={file}",
  )  # fmt: skip
  assert done.status
  assert len(scored) == 2
  assert json.loads(file.read_text()) == {"rendered": {"model": {"epe": 1.0}}}


@pytest.mark.parametrize(
  ("name", "arguments", "parts"),
  [
    (
      "evaluation.evaluate_flow",
      ["--json={}/a.json"],
      ["a.json", "another --json"],
    ),
    ("evaluation.evaluate_flow", ["--images={}"], ["another --images"]),
    ("evaluation.submit_flow", ["{}/out"], ["another folder"]),
  ],
)
def test_nothing_is_scored_that_cannot_be_written(
  refused, flag, tmp_path, monkeypatch, name, arguments, parts
):
  (tmp_path / "taken").write_text("")
  monkeypatch.setattr(tiling, "tiled_flow", None)
  given = ["--motorcycle=0.06"]
  if name == "evaluation.submit_flow":
    given = [f"--sintel={sintel(tmp_path / 'sintel', 'test')}"]
  arguments = [a.format(tmp_path / "taken") for a in arguments]
  refused(name, flag, *given, *arguments, parts=parts)


def test_without_weights(refused):
  parts = ["--weights", "optical_flow_checkpoint.pystate"]
  refused("evaluation.evaluate_flow", "--motorcycle=0.1", parts=parts)

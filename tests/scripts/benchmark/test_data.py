import json

import grain  # noqa: F401  Imported here to keep its flags after a script.
import numpy as np
import pytest

from perceiver_jax.data.images import codec

_STAGES = ["decode", "crop", "RandAugment", "resize", "normalize"]
_COLUMNS = ["stage", "ms", "images/s", "so far", "so far without RandAugment"]
_QUICK = [
  *("--num_images=3", "--repeats=1", "--image_size=32", "--flow_pairs=0")
]


def _image(height=40, width=60):
  rng = np.random.default_rng(0)
  return codec.encode_png(rng.integers(0, 256, (height, width, 3), np.uint8))


def test_the_benchmark_times_every_stage_and_the_pipeline(script, tmp_path):
  path = tmp_path / "figures.json"
  done = script(
    "benchmark.data",
    *_QUICK,
    *("--batch_size=2", "--num_steps=2", "--step_seconds=0.01"),
    f"--json={path}",
  )
  assert (done.status, done.err) == (0, "")
  saved = json.loads(path.read_text())
  assert [row["stage"] for row in saved["rows"]] == _STAGES
  total = plain = 0.0
  for row in saved["rows"]:
    assert list(row) == _COLUMNS
    assert row["ms"] > 0
    total += row["ms"]
    plain += row["ms"] if row["stage"] != "RandAugment" else 0
    assert row["images/s"] == pytest.approx(1e3 / row["ms"])
    assert row["so far"] == pytest.approx(1e3 / total)
    assert row["so far without RandAugment"] == pytest.approx(1e3 / plain)
  pipeline = saved["pipeline"]
  assert pipeline["images/s"] > 0
  assert 0 <= pipeline["waiting"] < 1
  assert f"{pipeline['waiting']:.1%} of the time" in done.out.splitlines()[-1]
  table = done.out.splitlines()[-8:-2]
  assert len({len(line) for line in table}) == 1
  assert table[1].split()[0] == "decode"


def test_mixed_images_are_read_with_their_partners(
  script, tmp_path, monkeypatch
):
  path, decoded = tmp_path / "figures.json", []
  decode = codec.decode_image
  monkeypatch.setattr(
    codec, "decode_image", lambda *a, **k: decoded.append(1) or decode(*a, **k)
  )
  steps = ("--batch_size=2", "--num_steps=2", "--step_seconds=0")
  done = script("benchmark.data", *_QUICK, *steps, "--mixing", f"--json={path}")
  assert (done.status, done.err) == (0, "")
  assert "mixed images/s in batches of 2" in done.out
  assert json.loads(path.read_text())["pipeline"]["mixing"]
  # 2 passes over 3 images, and 6 batches of 2 pairs.
  assert len(decoded) >= 2 * 3 + 6 * 2 * 2


def test_the_benchmark_times_rendered_flow(script, tmp_path):
  path = tmp_path / "figures.json"
  flags = [*_QUICK, "--num_steps=0", "--flow_pairs=1", f"--json={path}"]
  done = script("benchmark.data", *flags)
  assert (done.status, done.err) == (0, "")
  rate = json.loads(path.read_text())["flow_pairs/s"]
  assert rate > 0
  line = f"flow: {rate:,.4g} rendered pairs/s on one core, at 368 x 496"
  assert done.out.splitlines()[-1] == line


def test_a_step_that_takes_no_time_waits_all_the_time(script, tmp_path):
  path = tmp_path / "figures.json"
  flags = [*_QUICK, "--batch_size=2", "--num_steps=2", f"--json={path}"]
  done = script("benchmark.data", *flags, "--step_seconds=0", "--layers=0")
  assert done.status == 0
  assert json.loads(path.read_text())["pipeline"]["waiting"] == 1


def test_default_images_have_the_size_of_imagenet_files(script):
  done = script("benchmark.data", *_QUICK, "--num_steps=0")
  assert done.status == 0
  words = done.out.splitlines()[0].split()
  assert words[:3] == ["3", "images", "of"]
  assert 80 < float(words[3]) < 120
  assert "pipeline" not in done.out


def test_the_first_images_of_a_folder_are_used(script, tmp_path):
  for name in ("b.PNG", "a/x.jpeg", "c/y.png", "z.png"):
    path = tmp_path / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_image())
  (tmp_path / "images" / "notes.txt").write_text("not an image")
  (tmp_path / "images" / "z.png").write_bytes(b"not one of the first")
  folder = f"--directory={tmp_path / 'images'}"
  done = script("benchmark.data", *_QUICK, folder, "--num_steps=0")
  assert (done.status, done.err) == (0, "")
  assert done.out.startswith("3 images of 7 kB")


@pytest.mark.parametrize(
  ("arguments", "parts"),
  [
    (["--num_images=0"], ["--num_images=0"]),
    (["--num_workers=-1"], ["--num_workers=-1"]),
    (["--step_seconds=soon"], ["--step_seconds=soon"]),
    (["batch_size=4"], ["'batch_size=4'", "--"]),
    (["--directory=no/such"], ["--directory=no/such", "not a folder"]),
    (["--json=no/such/x.json"], ["--json=no/such/x.json", "no folder"]),
  ],
)
def test_invalid_flags_are_refused(refused, arguments, parts):
  done = refused("benchmark.data", *arguments, parts=parts)
  assert done.out == ""


def test_a_folder_without_images_or_with_a_damaged_one_is_refused(
  refused, tmp_path
):
  folder = f"--directory={tmp_path}"
  refused("benchmark.data", folder, parts=[folder, "no image", ".png"])
  (tmp_path / "x.png").write_bytes(_image()[:60])
  refused("benchmark.data", folder, parts=["x.png", "damaged"])

import json

import jax
import pytest
import tiny_weights

from perceiver_jax.models import zoo

pytestmark = pytest.mark.usefixtures("compile_once")

_COLUMNS = ["model", "way", "compile", "forward", "forward MiB", "GFLOP",
            "GFLOP by XLA", "of peak", "compile step", "step",
            "step / 3 forward", "step MiB"]  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  """Models of the papers made small."""
  size = tiny_weights.IMAGE_SIZE
  for name, found, raw in (
    ("imagenet_fourier", tiny_weights.classifier(), (size, size, 3)),
    ("language_bytes", tiny_weights.language(), (tiny_weights.LENGTH,)),
  ):
    dtype = "int32" if name == "language_bytes" else "float32"
    entry = zoo.MODELS[name]._replace(
      spec=found.spec, raw=tiny_weights.array(*raw, dtype=dtype)
    )
    monkeypatch.setitem(zoo.MODELS, name, entry)


@pytest.mark.slow  # Compiles four models and their train steps.
def test_a_row_a_model_and_way(script, tmp_path):
  path = tmp_path / "figures.json"
  done = script(
    "benchmark",
    *("--models=imagenet_fourier,language_bytes", "--repeats=1"),
    *("--ways=auto,depth=unroll+absorb=never", f"--json={path}"),
  )
  assert (done.status, done.err) == (0, "")
  saved = json.loads(path.read_text())
  assert saved["jax"] == jax.__version__
  assert saved["peak"] > 0
  assert [(row["model"], row["way"]) for row in saved["rows"]] == [
    (model, way)
    for model in ("imagenet_fourier", "language_bytes")
    for way in ("auto", "depth=unroll+absorb=never")
  ]
  for row in saved["rows"]:
    assert list(row) == _COLUMNS
    assert all(row[name] > 0 for name in _COLUMNS[2:])
    share = row["GFLOP"] * 1e9 / row["forward"] / saved["peak"]
    assert row["of peak"] == pytest.approx(share)
    ratio = row["step"] / row["forward"] / 3
    assert row["step / 3 forward"] == pytest.approx(ratio)
  table = done.out.splitlines()[-5:]
  assert table[0].split() == " ".join(_COLUMNS).split()
  assert len({len(line) for line in table}) == 1
  assert f"{saved['rows'][1]['GFLOP']:,.4g}" in table[2].split()


@pytest.mark.slow  # Compiles a train step.
def test_a_step_of_lamb(script, tmp_path):
  path = tmp_path / "figures.json"
  flags = ["--optimizer=lamb", "--repeats=1", f"--json={path}"]
  assert script("benchmark", *flags).status == 0
  (row,) = json.loads(path.read_text())["rows"]
  assert row["step"] > 0


def test_the_forward_pass_of_a_batch_alone(script, tmp_path):
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
    (["--ways=fast"], ["--ways=fast", "fast", "attention", "depth"]),
    (["--ways=depth=deep"], ["--ways=depth=deep", "scan, unroll"]),
    (["--ways=depth"], ["--ways=depth", "scan, unroll"]),
    (["models=flow"], ["'models=flow'", "--"]),
    (["--batch_size=0"], ["--batch_size=0"]),
    (["--peer=keras"], ["--peer=keras", "none|transformers"]),
  ],
)
def test_bad_flags_are_one_line(refused, arguments, parts):
  done = refused("benchmark", *arguments, parts=parts)
  assert done.out == ""

import importlib
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_runs as runs
from jax import export
from safetensors.numpy import load_file

from perceiver_jax import weights
from perceiver_jax.tasks import registry
from perceiver_jax.training import restore, step

pytestmark = pytest.mark.usefixtures("compile_once")

_RUNNER = pathlib.Path(__file__).parent / "run_exported.py"
# A config of each task, and leaves to change.
CONFIGS = {
  "imagenet": "conv,smoke",
  "digits": "pairs,smoke",
  "masked_lm": "smoke",
  "glue": "cola,smoke",
  "optical_flow": "smoke",
  "audioset": "smoke",
  "kinetics": "smoke",
  "modelnet40": "smoke",
  "starcraft": "smoke",
}
# Those of the default suite; the others take as long again.
_QUICK = ("starcraft",)


def get_config(name):
  return importlib.import_module(f"configs.{name}").get_config(CONFIGS[name])


def config_flag(name):
  return f"--config={runs.ROOT / 'configs' / name}.py:{CONFIGS[name]}"


def random_weights(config, task, seed=0):
  """Returns random weights of the model of a config, and statistics."""
  abstract = restore.abstract_state(config, task, step.make_mesh(1))
  rng = np.random.default_rng(seed)
  draw = lambda x: np.asarray(0.3 * rng.normal(size=x.shape), x.dtype)
  params = jax.tree.map(draw, abstract.params)
  # Running variances are positive.
  state = jax.tree.map(lambda x: abs(draw(x)), abstract.net_state)
  return weights.Weights(config.model.to_dict(), params, state)


def model_outputs(task, loaded, batch, precision="float32"):
  """Returns the outputs of a model by name, as exported programs do."""
  model = step.model_of(task, precision)
  apply = jax.jit(lambda v, b: model.apply(*v, None, b, False)[0])
  out = jax.device_get(apply((loaded.params, loaded.state), batch))
  logits = (
    out.logits if isinstance(out.logits, dict) else {"logits": out.logits}
  )
  return {**logits, "latents": out.latents}


def run_elsewhere(folder, *names):
  """Runs exported programs where this project can't be imported."""
  done = subprocess.run(
    [sys.executable, "-I", _RUNNER, folder, *names],
    cwd=folder, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return [dict(np.load(folder / f"{name}-outputs.npz")) for name in names]


def assert_equal(given, expected):
  assert given.keys() == expected.keys()
  for name, array in expected.items():
    scale = np.abs(array[np.abs(array) < 1e8]).max()
    np.testing.assert_allclose(
      given[name], array, atol=2e-4 * scale, rtol=1e-4, err_msg=name
    )


def exported_program(path):
  return export.deserialize(bytearray(path.read_bytes()))


@pytest.fixture
def digits(trained_once, script, tmp_path):
  """Returns an exported run of digits: the folder of the files."""
  done = script(
    "export", f"--workdir={trained_once[0]}", f"--out={tmp_path / 'digits.jax'}"
  )
  assert done.status == 0, done.err
  return tmp_path


@pytest.mark.parametrize("separate", [False, True])
def test_a_run_predicts_the_same_elsewhere(
  trained_once, script, tmp_path, separate
):
  folder, out = trained_once[0], tmp_path / "my digits.jax"
  done = script(
    "export",
    f"--workdir={folder}",
    f"--out={out}",
    f"--separate_weights={separate}",
  )
  assert done.status == 0, done.err
  assert "input image: float32 [b, 8, 8, 1]" in done.out
  config = importlib.import_module("configs.digits").get_config("smoke")
  task = registry.make_task(config)
  loaded = weights.load(folder)
  images = [task.preprocess(task.source("eval")[i], None) for i in range(5)]
  inputs = {"image": np.stack([x["image"] for x in images])}
  np.savez(tmp_path / "my digits-inputs.npz", **inputs)
  (outputs,) = run_elsewhere(tmp_path, "my digits")
  assert_equal(outputs, model_outputs(task, loaded, inputs))
  assert (tmp_path / "my digits.safetensors").exists() == separate


def test_the_description_says_how_to_prepare_and_read_arrays(digits):
  description = json.loads((digits / "digits.json").read_text())
  image = description["inputs"]["image"]
  assert (image["shape"], image["dtype"]) == (["b", 8, 8, 1], "float32")
  assert "x / 127.5 - 1" in image["meaning"]
  logits = description["outputs"]["logits"]
  assert logits["shape"] == ["b", 10]
  assert "softmax" in logits["meaning"]
  latents = description["outputs"]["latents"]
  assert (latents["shape"][0], len(latents["shape"])) == ("b", 3)
  assert "mean over the second axis" in latents["meaning"]
  assert "b is any size" in description["format"]
  assert description["class_names"] == [str(i) for i in range(10)]
  assert description["platforms"] == ["cpu", "cuda", "tpu"]
  assert "weights" not in description
  program = exported_program(digits / "digits.jax")
  assert program.platforms == ("cpu", "cuda", "tpu")


def test_the_program_runs_on_the_platforms_and_batches_that_were_chosen(
  trained_once, script, tmp_path
):
  out = tmp_path / "two.jax"
  done = script(
    "export",
    f"--workdir={trained_once[0]}",
    f"--out={out}",
    "--platforms=cpu",
    "--batch_size=2",
  )
  assert done.status == 0, done.err
  program = exported_program(out)
  assert program.platforms == ("cpu",)
  description = json.loads((tmp_path / "two.json").read_text())
  assert description["inputs"]["image"]["shape"] == [2, 8, 8, 1]
  assert "any size" not in description["format"]
  images = np.zeros((3, 8, 8, 1), np.float32)
  assert program.call({"image": images[:2]})["logits"].shape == (2, 10)
  with pytest.raises(ValueError, match="image"):
    program.call({"image": images})


def test_separate_weights_can_be_exchanged(trained_once, script, tmp_path):
  out = tmp_path / "digits.jax"
  flags = (f"--workdir={trained_once[0]}", "--separate_weights")
  assert script("export", *flags, f"--out={out}").status == 0
  arrays = load_file(tmp_path / "digits.safetensors")
  call = exported_program(out).call
  images = {"image": np.ones((2, 8, 8, 1), np.float32)}
  changed = {name: 0 * x for name, x in arrays.items()}
  bias = "params/decoder/output/b"
  assert bias in arrays
  changed[bias] = np.arange(10, dtype=np.float32)
  outputs = call(changed, images)["logits"]
  np.testing.assert_allclose(outputs, [np.arange(10)] * 2)
  assert not np.allclose(call(arrays, images)["logits"], outputs)
  # The file is one that this project reads as well.
  assert weights.load(tmp_path / "digits.safetensors").spec["num_classes"] == 10


@pytest.mark.parametrize(
  "name",
  [
    name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in CONFIGS
  ],
)
def test_every_task_predicts_the_same_elsewhere(name, script, tmp_path):
  config = get_config(name)
  task = registry.make_task(config)
  loaded = random_weights(config, task)
  weights.save(tmp_path / "weights.safetensors", loaded)
  done = script(
    "export",
    f"--weights={tmp_path / 'weights.safetensors'}",
    config_flag(name),
    f"--out={tmp_path / 'program.jax'}",
  )
  assert done.status == 0, done.err
  description = json.loads((tmp_path / "program.json").read_text())
  source = next(iter(task.eval_sources().values()))
  batch = next(iter(task.eval_dataset(source, global_batch=3)))
  inputs = {k: batch[k] for k in description["inputs"]}
  np.savez(tmp_path / "program-inputs.npz", **inputs)
  (outputs,) = run_elsewhere(tmp_path, "program")
  assert_equal(outputs, model_outputs(task, loaded, batch))
  for kind, arrays in (("inputs", inputs), ("outputs", outputs)):
    assert description[kind].keys() == arrays.keys()
    for array, described in zip(
      (arrays[k] for k in description[kind]),
      description[kind].values(),
      strict=True,
    ):
      assert described["shape"] == ["b", *array.shape[1:]]
      assert described["dtype"] == array.dtype.name
      assert described["meaning"]


@pytest.mark.parametrize(
  ("flags", "parts"),
  [
    ([], ["--workdir", "--weights"]),
    (["--workdir=RUN", "--weights=RUN"], ["either"]),
    (["--weights=RUN"], ["--config is missing"]),
    (["--workdir=RUN", "--platforms=cpu,gpu"], ["--platforms=cpu,gpu", "cuda"]),
    (["--workdir=RUN", "--platforms="], ["--platforms=", "cuda"]),
    (["--workdir=RUN", "--checkpoint=7"], ["7"]),
    (["--workdir=RUN", "--out=x.json"], ["--out=x.json", ".jax"]),
    (["--workdir=RUN", "--out=name"], ["--out=name", ".jax"]),
    (["--workdir=RUN", "--out=RUN/config.jax/x.jax"], ["--out"]),
    (["--workdir=RUN", "--batch_size=-1"], ["batch_size"]),
    (["--workdir=RUN", "more"], ["'more'"]),
  ],
)
def test_bad_flags_are_one_line(trained, refused, tmp_path, flags, parts):
  (trained / "config.jax").write_text("a file")
  flags = [flag.replace("RUN", str(trained)) for flag in flags]
  if not any(flag.startswith("--out") for flag in flags):
    flags.append(f"--out={tmp_path / 'program.jax'}")
  refused("export", *flags, parts=parts)


def test_nothing_is_replaced_unless_asked_for(digits, refused, script, trained):
  flags = (f"--workdir={trained}", f"--out={digits / 'digits.jax'}")
  refused("export", *flags, parts=["digits.jax exists", "--overwrite"])
  (digits / "digits.jax").unlink()
  refused("export", *flags, parts=["digits.json exists", "--overwrite"])
  assert script("export", *flags, "--overwrite").status == 0


def test_weights_of_another_model_than_the_config(refused, trained, tmp_path):
  refused(
    "export",
    f"--weights={trained}",
    config_flag("masked_lm"),
    f"--out={tmp_path / 'x.jax'}",
    parts=["model.adapter.kind", "--config"],
  )


def test_weights_that_a_program_cannot_hold(
  refused, trained, tmp_path, monkeypatch
):
  monkeypatch.setattr("scripts.export.artifact._MAX_BYTES", 1000)
  flags = (f"--workdir={trained}", f"--out={tmp_path / 'x.jax'}")
  refused("export", *flags, parts=["bytes", "--separate_weights"])


def test_a_task_that_describes_no_inputs(
  refused, trained, tmp_path, monkeypatch
):
  from perceiver_jax.tasks import base, image_classification

  monkeypatch.setattr(
    image_classification.ImageClassification,
    "describe_model",
    base.Task.describe_model,
  )
  flags = (f"--workdir={trained}", f"--out={tmp_path / 'x.jax'}")
  refused("export", *flags, parts=["image_classification", "describe_model"])

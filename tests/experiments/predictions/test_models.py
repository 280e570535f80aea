import jax
import numpy as np
import pytest
import tiny_weights
from absl import flags

from experiments.predictions import models
from perceiver_jax import weights
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import registry
from perceiver_jax.training import restore, workdir


@pytest.mark.parametrize(
  ("name", "part"),
  [
    ("missing.safetensors", "no weights at"),
    ("empty", "config.json"),
    ("unfinished", "train it to its end"),
    ("model.onnx", "has an unknown format"),
    ("broken.safetensors", "can't be read"),
  ],
)
@pytest.mark.parametrize("flag_name", ["weights", "workdir"])
def test_paths_without_weights_are_refused(
  flag, tmp_path, name, part, flag_name
):
  (tmp_path / "empty").mkdir()
  (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
  (tmp_path / "model.onnx").touch()
  (tmp_path / "broken.safetensors").write_bytes(b"nothing")
  flag(**{flag_name: tmp_path / name})
  with pytest.raises(UserError) as error:
    models.load_weights(["flow"], "flow")
  assert part in str(error.value)
  assert name in str(error.value)


def test_weights_that_are_not_finite_are_refused(flag, tmp_path):
  saved = tiny_weights.flow()
  saved.params["encoder/latents"]["embeddings"][0, 0] = np.nan
  path = tmp_path / "nan.safetensors"
  weights.save(path, saved)
  flag(weights=path)
  with pytest.raises(UserError, match="latents/embeddings that are NaN"):
    models.load_weights(["flow"], "flow")


@pytest.mark.usefixtures("flag")
def test_weights_of_a_run_are_those_of_the_checkpoint(trained):
  flags.FLAGS(["predict", f"--workdir={trained}"])
  exported = models.load_weights(["classification"])
  flags.FLAGS(["predict", "--checkpoint=2"])
  loaded = models.load_weights(["classification"])
  config = workdir.read_config(trained)
  task = registry.make_task(config)
  restored = restore.restore(config, task, trained, "2")
  expected, _ = restore.local_params(restored.state)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, expected)
  assert loaded.spec == exported.spec
  latents = lambda given: given.params["encoder/latents"]["embeddings"]
  assert not np.array_equal(latents(loaded), latents(exported))

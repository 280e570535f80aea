"""Training of variants whose smoke run no other test trains."""

import importlib

import pytest

from perceiver_jax.tasks import registry
from perceiver_jax.training import loop

# The smoke runs of `mel_video_512` and other narrow variants are those of the
# wide ones, since all have latents of the same small size.
VARIANTS = {
  "imagenet": (
    "jft_pretrain_fourier", "jft_pretrain_fourier_projected",
    "jft_pretrain_conv", "jft_fourier_projected", "icml_image_coordinates",
    "transformer", "figure5", "figure6",
  ),
  "audioset": (
    "attention_maps", "raw_video_no_dropout", "mel_video_no_dropout",
    "video_512",
  ),
  "modelnet40": ("transformer", "pointnet"),
  "resampler": ("mean_pooling",),
  "starcraft": (
    "perceiver_io", "transformer", "small_transformer", "small_pooling",
  ),
}  # fmt: skip
# One of each file is enough for every change; the others run at night.
CASES = [
  pytest.param(file, name, marks=pytest.mark.nightly if i else pytest.mark.slow)
  for file, names in VARIANTS.items()
  for i, name in enumerate(names)
]


@pytest.mark.parametrize(("file", "variant"), CASES)
def test_a_smoke_run_trains_and_is_evaluated(
  file, variant, tmp_path, compile_once, no_report
):
  config = importlib.import_module(f"configs.{file}").get_config(
    f"{variant},smoke"
  )
  config.num_steps = config.eval_every_steps = 2
  task = registry.make_task(config)
  outcome = loop.Trainer(config, task, tmp_path, num_devices=1).run()
  assert (outcome.stopped, outcome.step) == ("", 2)
  assert task.primary_metric in outcome.results["metrics"]

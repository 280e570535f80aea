"""Compares learning from permuted pixels: python -m scripts.permuted_pixels.

Repeats the experiment of Perceiver v2, Table 2, in miniature: the pixels of all
images are permuted by one random order. A Perceiver, whose inputs carry their
positions, learns as before; a convolutional network, which relies on
neighborhoods, does not. Both classify crops of photos (`configs/photos.py`)
without color, brightness and contrast, with the same loop, recipe and data. The
script takes about ten minutes on two CPU cores.

Writes permuted_pixels.md (a table) and permuted_pixels.png (curves) into --out.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import haiku as hk
import jax
import matplotlib.pyplot as plt
import numpy as np
from absl import flags
from jax import numpy as jnp

from configs import photos
from experiments import launch
from perceiver_jax import files
from perceiver_jax.models import perceiver
from perceiver_jax.models.modalities import image as image_adapter
from perceiver_jax.models.typing import ReturnAttention
from perceiver_jax.tasks import image_classification
from perceiver_jax.tasks.base import Batch
from perceiver_jax.training import loop
from perceiver_jax.viz import sections

_OUT = flags.DEFINE_string("out", "runs/permuted_pixels", "Folder to write to.")
_STEPS = flags.DEFINE_integer(
  "steps", 400, "Steps of each of the four runs.", lower_bound=51
)

_SEED = 1  # Seed of the permutation.
_CHANNELS = (32, 64, 128)
_MIN_CONTRAST = 0.1
_METRIC = "eval/accuracy"


class WithoutColor(image_classification.ImageClassification):
  """Classification of images without color, brightness and contrast.

  These do not depend on the order of pixels and distinguish many photos.
  """

  def forward(
    self,
    batch: Batch,
    *,
    is_training: bool,
    return_attention: ReturnAttention = False,
  ) -> perceiver.Outputs:
    """Removes color, brightness and contrast, then applies the model."""
    gray = batch["image"].mean(-1, keepdims=True)
    gray -= gray.mean((1, 2), keepdims=True)
    gray /= gray.std((1, 2), keepdims=True) + _MIN_CONTRAST
    batch = {**batch, "image": jnp.repeat(gray, batch["image"].shape[-1], -1)}
    return self.predict(
      batch, is_training=is_training, return_attention=return_attention
    )

  def predict(self, batch: Batch, **options: bool) -> perceiver.Outputs:
    """Applies the model to preprocessed images."""
    return super().forward(batch, **options)


class Convolutional(WithoutColor):
  """The same task with a small convolutional network.

  It has three 3 x 3 convolutions, each followed by max pooling by 2, and a mean
  over positions.
  """

  def predict(
    self,
    batch: Batch,
    *,
    is_training: bool,
    return_attention: ReturnAttention = False,
  ) -> perceiver.Outputs:
    """Returns logits [b, P]; there is no attention."""
    del is_training  # A prepared batch has mixed images.
    x = batch["image"]
    seed = self._config.model.adapter.permutation_seed
    if seed:
      size = x.shape[1] * x.shape[2]
      flat = x.reshape(x.shape[0], size, -1)
      x = flat[:, image_adapter.permutation(seed, size)].reshape(x.shape)
    for channels in _CHANNELS:
      x = jax.nn.relu(hk.Conv2D(channels, 3)(x))
      x = hk.max_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    x = x.mean((1, 2))
    logits = hk.Linear(self._config.model.num_classes)(x)
    return perceiver.Outputs(logits, x[:, None], (), None)

  def summary_images(self, outputs: Any, batch: Batch) -> dict[str, np.ndarray]:
    """Returns no images, since there is no attention."""
    return {}

  def report_sections(
    self, outputs: Any, batch: Batch, metrics: Mapping[str, np.ndarray]
  ) -> list[sections.Section]:
    """Returns no sections."""
    return []


_MODELS = {
  "Perceiver": WithoutColor,
  "convolutions": Convolutional,
}


def main(argv: Sequence[str]) -> None:
  """Trains the four models, and writes the table and the curves."""
  launch.no_arguments(argv)
  out = files.as_path(_OUT.value).expanduser()
  out.mkdir(parents=True, exist_ok=True)
  curves = {}
  for name in _MODELS:
    for permuted in (False, True):
      print(f"{name}, {'permuted' if permuted else 'in place'}:", flush=True)
      curves[name, permuted] = _train(name, permuted)
  text = _table(curves)
  files.write_text(out / "permuted_pixels.md", text)
  _draw(curves, out / "permuted_pixels.png")
  print(text)
  print(f"written to {out}")


def _train(name: str, permuted: bool) -> list[tuple[int, float]]:
  """Trains a model; returns its held-out accuracy by step."""
  config = photos.get_config()
  config.num_steps = _STEPS.value
  config.model.adapter.permutation_seed = _SEED if permuted else 0
  config.eval_every_steps = 50
  config.log.tensorboard = False
  with tempfile.TemporaryDirectory() as folder:
    loop.Trainer(config, _MODELS[name](config), Path(folder)).run()
    lines = (Path(folder) / "metrics.jsonl").read_text("utf-8").splitlines()
  records = [json.loads(line) for line in lines]
  return [(r["step"], r[_METRIC]) for r in records if _METRIC in r]


def _table(curves: Mapping[tuple[str, bool], Sequence[tuple]]) -> str:
  lines = [
    "| held-out accuracy | in place | permuted |",
    "| --- | ---: | ---: |",
  ]
  for name in _MODELS:
    last = [f"{100 * curves[name, p][-1][1]:.1f}%" for p in (False, True)]
    lines.append(f"| {name} | {' | '.join(last)} |")
  return "\n".join(lines) + "\n"


def _draw(
  curves: Mapping[tuple[str, bool], Sequence[tuple]], path: Path
) -> None:
  figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
  colors = dict(zip(_MODELS, ("tab:blue", "tab:orange"), strict=True))
  for (name, permuted), points in curves.items():
    axes.plot(
      *zip(*points, strict=True),
      color=colors[name],
      linestyle="--" if permuted else "-",
      label=f"{name}, {'permuted' if permuted else 'in place'}",
    )
  axes.set(xlabel="step", ylabel="held-out accuracy", ylim=(0, None))
  axes.grid(alpha=0.3)
  axes.legend(loc="upper left")
  with files.replacing(path) as partial:
    figure.savefig(partial, format="png", dpi=150)
  plt.close(figure)


if __name__ == "__main__":
  launch.run(main)

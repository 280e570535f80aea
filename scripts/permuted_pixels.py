"""Does the order of pixels matter? python -m scripts.permuted_pixels --out=DIR.

In miniature, the experiment of Perceiver, Table 2: all pixels of all pictures
are put into one random order. A Perceiver, whose inputs carry their positions
with them, learns as before; a convolutional network, which takes neighbours for
related, does not. Crops of photos (`configs/photos.py`) without their colours,
brightness and contrast, the same loop, recipe and data for both; about ten
minutes on two CPU cores.

Writes DIR/permuted_pixels.md (a table) and DIR/permuted_pixels.png (curves).
"""

import json
import tempfile
from collections.abc import (
  Mapping,
  Sequence,
)
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
from perceiver_jax.models import perceiver
from perceiver_jax.models.modalities import image as image_adapter
from perceiver_jax.tasks import image_classification
from perceiver_jax.tasks.base import Batch
from perceiver_jax.training import loop

_OUT = flags.DEFINE_string("out", "runs/permuted_pixels", "Folder to write to.")
_STEPS = flags.DEFINE_integer(
  "steps", 400, "Of each of the four runs.", lower_bound=51
)

_SEED = 1  # Of the order of the pixels.
_CHANNELS = (32, 64, 128)
_LEAST_CONTRAST = 0.1
_METRIC = "eval/accuracy"


class Structure(image_classification.ImageClassification):
  """Pictures without their colours, brightness and contrast.

  These are the same in any order, and would tell many photos apart.
  """

  def forward(
    self, batch: Batch, *, is_training: bool, return_attention: bool = False
  ) -> perceiver.Outputs:
    """As in the base class."""
    grey = batch["image"].mean(-1, keepdims=True)
    grey -= grey.mean((1, 2), keepdims=True)
    grey /= grey.std((1, 2), keepdims=True) + _LEAST_CONTRAST
    batch = {**batch, "image": jnp.repeat(grey, batch["image"].shape[-1], -1)}
    return self.predict(
      batch, is_training=is_training, return_attention=return_attention
    )

  def predict(self, batch: Batch, **how: bool) -> perceiver.Outputs:
    """What the model makes of such pictures."""
    return super().forward(batch, **how)


class Convolutional(Structure):
  """The same task, learned by a small convolutional network.

  Three 3 x 3 convolutions, each followed by halving the picture, and the mean
  over places.
  """

  def predict(
    self, batch: Batch, *, is_training: bool, return_attention: bool = False
  ) -> perceiver.Outputs:
    """Logits [b, P]; there is no attention."""
    x = self._mixed(batch).images if is_training else batch["image"]
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

  def pictures(self, outputs: Any, batch: Batch) -> dict[str, np.ndarray]:
    """None: there is no attention to show."""
    return {}

  def report(
    self, outputs: Any, batch: Batch, metrics: Mapping[str, np.ndarray]
  ) -> dict[str, Any]:
    """Nothing of its own."""
    return {}


_MODELS = {
  "Perceiver": Structure,
  "convolutions": Convolutional,
}


def main(argv: Sequence[str]) -> None:
  """Trains the four, and writes table and curves."""
  launch.no_arguments(argv)
  out = Path(_OUT.value).expanduser()
  out.mkdir(parents=True, exist_ok=True)
  curves = {}
  for name in _MODELS:
    for permuted in (False, True):
      print(f"{name}, {'permuted' if permuted else 'in place'}:", flush=True)
      curves[name, permuted] = _train(name, permuted)
  text = _table(curves)
  (out / "permuted_pixels.md").write_text(text, encoding="utf-8")
  _draw(curves, out / "permuted_pixels.png")
  print(text)
  print(f"written to {out}")


def _train(name: str, permuted: bool) -> list[tuple[int, float]]:
  """Held-out accuracy by step."""
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
  colours = dict(zip(_MODELS, ("tab:blue", "tab:orange"), strict=True))
  for (name, permuted), points in curves.items():
    axes.plot(
      *zip(*points, strict=True),
      color=colours[name],
      linestyle="--" if permuted else "-",
      label=f"{name}, {'permuted' if permuted else 'in place'}",
    )
  axes.set(xlabel="step", ylabel="held-out accuracy", ylim=(0, None))
  axes.grid(alpha=0.3)
  axes.legend(loc="upper left")
  figure.savefig(path, dpi=150)
  plt.close(figure)


if __name__ == "__main__":
  launch.run(main)

"""Perceiver resampler: clips from the features of a frozen encoder.

  python -m experiments.train --config=configs/resampler.py \
    --workdir=runs/resampler

Generated clips show two of four textures, one after the other; the class is the
ordered pair, of which there are 12. A frozen random encoder turns each frame
into 9 features. docs/resampler.md has the results.

Variants:
  "" (none): a resampler of 8 latents, and their mean.
  mean_pooling: the mean of all features in its place, with as many MLPs. It
    cannot tell the order of the events.
  smoke: a few steps of a tiny model; alone, or with the other variant.

All sizes and the recipe are chosen.
"""

import ml_collections

from configs import base
from perceiver_jax.data.clips import events

_FRAMES = 10


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the config of a variant; see the module's docstring."""
  name, smoke = base.parse(variant, ("mean_pooling",))
  config = base.run()
  config.task = "feature_classification"
  config.published = ml_collections.ConfigDict()
  config.data = {
    # See `perceiver_jax.tasks.feature_classification.SOURCES`.
    "source": "events",
    "source_args": {
      "events": {
        "num_train": 16_384,
        "num_test": 1024,
        "max_frames": _FRAMES,
        "num_channels": 32,
      },
    },
    "train_split": "train",
    "eval_split": "test",
    "num_frames": _FRAMES,  # Clips are padded to this number.
    "num_workers": 0,  # Processes that prepare batches; 0: threads.
  }
  config.model = {
    "num_classes": len(events.CLASSES),
    "adapter": {"kind": "features", "num_frames": _FRAMES},
    "encoder": _MEAN_POOLING if name else _RESAMPLER,
    "decoder": {"kind": "average_and_project"},
  }
  config.batch_size = 32
  config.num_steps = 1200
  config.optimizer.update(
    name="adamw", learning_rate=2e-3, weight_decay=0.01, warmup_steps=100
  )
  config.log.every_steps = 100
  config.eval_every_steps = config.checkpoint.every_steps = 400
  if smoke:
    config = base.smoke(config)
    config.data.source_args.events.update(num_train=64, num_test=16)
  return config


_RESAMPLER = {
  "kind": "resampler",
  "num_latents": 8,
  "num_latent_channels": 64,
  "num_layers": 2,
  "num_heads": 4,
  "num_kv_heads": 0,
  "head_channels": 16,
  "widening_factor": 4,
  "norm": "layer",
  "activation": "squared_relu",
  "projection": "linear",
  "projection_channels": 0,
}
_MEAN_POOLING = {
  "kind": "mean_pooling",
  "num_latent_channels": 64,
  "num_layers": 2,
  "widening_factor": 4,
}

r"""Hierarchical Perceiver: positions learned by masked autoencoding.

  python -m experiments.train --config=configs/hip.py --workdir=runs/hip

The model is given no positions, and learns them by predicting masked pixels
(arXiv 2202.10890). A classifier then starts from it and reads the latents of
its bottleneck:

  python -m experiments.train --config=configs/hip.py:small_classify \
    --workdir=runs/hip_classify --config.init_from=runs/hip

Data: the small variants train on crops of photos that ship with scikit-image
and scikit-learn (`configs/photos.py`), the others on ImageNet, prepared as for
`configs/imagenet.py`; any source of images will do.

Architecture: the sizes of the authors' code, which has no data, loss or
optimizer. The recipe is modeled on masked autoencoders (arXiv 2111.06377):
AdamW, a cosine, and a mask rate of 75%, but of single pixels, since there are
no patches.

Variants:
Chosen for two CPU cores, on crops of 16 x 16 pixels, of which half are masked:
  small: 4 groups, 1 and 4 again, the default.
  small_flat: one group throughout, which makes it a flat Perceiver IO.
  small_classify: classification from the bottleneck.
Published sizes, on 224 x 224 pixels:
  hip_16: 16 groups at most, in 7 blocks.
  hip_256: 256 groups at most, in 11 blocks.
  hip_16x3: 16 groups at most, in 3 blocks.
  hip_mini: the authors' small model for tests.
  hip_16_classify: classification from the bottleneck of hip_16.
  hip_256_classify: the same for hip_256.
  smoke: a few steps of a tiny model, in seconds; alone or with any variant.
"""

from typing import Any

import ml_collections

from configs import base
from perceiver_jax.data.images import photos
from perceiver_jax.models import zoo

_CLASSIFY = "_classify"
_PUBLISHED = ("hip_16", "hip_256", "hip_16x3", "hip_mini")
_VARIANTS = (
  *("small", "small_flat", "small_classify"),
  *_PUBLISHED,
  *("hip_16_classify", "hip_256_classify"),
)


def get_config(variant: str = "small") -> ml_collections.ConfigDict:
  """Returns the config of a variant; see the module's docstring."""
  name, smoke = base.parse(variant, _VARIANTS, "small")
  model = name.removesuffix(_CLASSIFY)
  config = base.image_classification()
  config.optimizer.update(
    name="adamw", schedule="cosine", weight_decay=0.05, b2=0.95, clip_norm=1.0
  )
  if model in _PUBLISHED:
    config.model = zoo.get_spec(model, adapter={"label_modalities": ()})
    _imagenet(config)
  else:
    config.model = _small(flat=model == "small_flat")
    _photos(config)
  if name.endswith(_CLASSIFY):
    _classify(config)
  else:
    config.task = "masked_autoencoding"
    # Share of the squares that are masked.
    config.data.mask_rate = 0.75 if model in _PUBLISHED else 0.5
    config.data.mask_size = 1  # Pixels along the side of such a square.
  return base.smoke(config) if smoke else config


def _small(*, flat: bool) -> dict[str, Any]:
  """Returns the model of the small variants."""
  encoder = {
    "kind": "hierarchical",
    "num_groups": (4, 1),
    "num_latents": (16, 32),
    "num_latent_channels": (32, 64),
    "num_self_attends": (1, 2),
    "num_self_attend_heads": (2, 4),
  }
  decoder = {
    "kind": "hierarchical",
    "num_groups": (4,),
    "num_latents": (16,),
    "num_latent_channels": (32,),
    "num_self_attends": (1,),
    "num_self_attend_heads": (2,),
  }
  if flat:  # The bottleneck alone, with the latents of the first block.
    encoder = {leaf: x if leaf == "kind" else x[-1:] for leaf, x in
               encoder.items()} | {"num_latents": (64,)}  # fmt: skip
    decoder = {leaf: x if leaf == "kind" else () for leaf, x in
               decoder.items()}  # fmt: skip
  return {
    "adapter": {
      "kind": "grouped",
      "num_channels": 32,
      "modalities": ("image",),
    },
    "encoder": encoder,
    "decoder": decoder,
  }


def _photos(config: ml_collections.ConfigDict) -> None:
  """Sets the data and the recipe of the small variants."""
  config.num_steps = 1500
  config.batch_size = 32
  config.data.source = "photos"
  config.data.image_shape = (16, 16, 3)
  # Crops of about 96 pixels, so that 16 of them have some detail.
  config.data.source_args.photos.size = 96
  config.data.source_args.photos.num_test = 256
  config.data.flip = True
  config.optimizer.learning_rate = 4e-3
  config.optimizer.warmup_steps = 50
  config.log.every_steps = 50
  config.eval_every_steps = 500
  config.checkpoint.every_steps = 500


def _imagenet(config: ml_collections.ConfigDict) -> None:
  """Sets the data and the recipe of the published sizes."""
  config.num_epochs = 300.0
  config.batch_size = 1024
  base.imagenet(config)
  config.optimizer.learning_rate = 6e-4
  config.optimizer.learning_rate_batch_size = 1024
  config.optimizer.warmup_steps = 500
  config.eval_every_steps = 2500
  config.checkpoint.every_steps = 2500


def _classify(config: ml_collections.ConfigDict) -> None:
  """Sets classification, which starts from a run of the other variant."""
  small = config.data.source == "photos"
  config.model.num_classes = photos.NUM_CLASSES if small else 1000
  # As wide as the latents that the bottleneck reads, as in the authors' code.
  width = config.model.encoder.num_latent_channels[-2]
  config.model.decoder = ml_collections.ConfigDict(
    {"kind": "bottleneck_classification", "num_query_channels": width}
  )
  config.label_smoothing = 0.1
  if small:
    config.num_steps = 1000
    config.optimizer.learning_rate = 1e-3
  else:
    config.num_epochs = 100.0
    config.data.rand_augment.num_layers = 4
    config.mixing = {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}

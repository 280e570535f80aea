r"""Classification of your own labeled images, by a small Perceiver IO.

  python -m experiments.train --config=configs/images.py --workdir=runs/images \
    --config.data.source_args.image_folder.directory=DIR

Data: one of three kinds, chosen by the leaf that is given.
  --config.data.source_args.image_folder.directory: folders of images,
    DIR/SPLIT/CLASS/*.jpg, or DIR/CLASS/*.jpg without splits.
  --config.data.source_args.idx.directory: the four IDX files of MNIST,
    Fashion-MNIST and others, compressed or not.
  --config.data.source_args.tfds.name: a data set prepared by TFDS.
The splits, the number of classes and the size of an image follow from the data
and are written to the run's config. If there is a split "validation", "val",
"valid" or "test", the first of them is held out, else a tenth of the training
images. Leaves that are given on the command line are kept:
--config.data.image_shape='(96, 96, 3)', for example.

Architecture: that of `imagenet_conv` (Perceiver IO v3, app. A.1): convolution
and pooling before the cross-attend, learned positions, self-attends, a learned
class query. Chosen for runs of minutes on two CPU cores (`tiny` and `small`) or
hours on a GPU (`base`): the sizes, AdamW with a cosine, the lengths of the
runs, averaged parameters, heads of the cross-attends, and flips. For images
whose mirror image means something else, such as text, set
--config.data.flip=False.

Variants:
  tiny: images of at most 32 x 32 pixels.
  small: the default, at most 64 x 64 pixels.
  base: at most 224 x 224 pixels, with RandAugment, MixUp and CutMix.
  smoke: a few steps of a tiny model, in seconds, on your images or else on
    scikit-learn's digits; alone or with any variant, as in `:base,smoke`.
"""

from typing import NamedTuple

import ml_collections

from configs import base


class _Size(NamedTuple):
  """The sizes of a variant.

  Attributes:
    max_image_side: largest height and width of an image, in pixels.
    num_conv_channels: channels of the convolution.
    num_latents: number of latents.
    num_channels: channels of a latent and of the query.
    num_blocks: blocks of self-attends, which share their weights.
    num_self_attends: self-attends in each block.
    num_steps: length of the run.
  """

  max_image_side: int
  num_conv_channels: int
  num_latents: int
  num_channels: int
  num_blocks: int
  num_self_attends: int
  num_steps: int


_SIZES = {
  "tiny": _Size(32, 32, 8, 64, 1, 1, 2000),
  "small": _Size(64, 64, 16, 128, 1, 2, 10_000),
  "base": _Size(224, 64, 128, 512, 4, 3, 60_000),
}


def get_config(variant: str = "small") -> ml_collections.ConfigDict:
  """Returns the config of a variant; see the module's docstring."""
  name, smoke = base.parse(variant, tuple(_SIZES), "small")
  size = _SIZES[name]
  config = base.image_classification()
  config.num_steps = size.num_steps
  config.batch_size = 64
  config.ema_decay = 0.995
  config.data.source_args = {
    "idx": {"directory": ""},
    "image_folder": {"directory": ""},
    "tfds": {"name": "", "data_dir": "", "label_feature": "label"},
  }
  # The data decides what is "" or 0; see
  # `perceiver_jax/tasks/own_data/image_config.py`.
  config.data.source = config.data.train_split = config.data.eval_split = ""
  config.data.image_shape = (0, 0, 0)
  config.data.max_image_side = size.max_image_side
  config.data.flip = True
  config.model = {
    "num_classes": 0,
    "adapter": {
      "prep_type": "conv",
      "num_channels": size.num_conv_channels,
      "spatial_downsample": 4,
      "position_encoding": "trainable",
      "num_position_channels": 32,
    },
    "encoder": {
      "num_latents": size.num_latents,
      "num_latent_channels": size.num_channels,
      "num_blocks": size.num_blocks,
      "num_self_attends_per_block": size.num_self_attends,
      "num_cross_attends": 1,
      "num_self_attend_heads": 4,
      "num_cross_attend_heads": 8,
    },
    "decoder": {
      "kind": "classification",
      "num_query_channels": size.num_channels,
      "num_heads": 8,
    },
  }
  config.optimizer.update(
    name="adamw",
    learning_rate=1.5e-3,
    schedule="cosine",
    warmup_steps=100,
    weight_decay=0.05,
    clip_norm=1.0,
  )
  config.log.every_steps = 100
  config.eval_every_steps = 2000
  config.checkpoint.every_steps = 1000
  if name == "base":
    _augment(config)
  if smoke:
    # Of a source without leaves; taken if the leaf of no other is given.
    config.data.source_args.digits = {}
    return base.smoke(config)
  return config


def _augment(config: ml_collections.ConfigDict) -> None:
  """Sets the augmentation and rate of IO's ImageNet recipe (app. A.1)."""
  config.optimizer.learning_rate = 5e-4
  config.optimizer.warmup_steps = 1000
  config.data.normalization = "imagenet"
  config.data.resize = "cubic"
  config.data.crop = "inception"
  config.data.rand_augment.num_layers = 4
  config.mixing = {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}
  config.label_smoothing = 0.1
  config.ema_decay = 0.999

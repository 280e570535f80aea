"""Photo crops: a small version of Perceiver IO's ImageNet recipe.

  python -m experiments.train --config=configs/photos.py --workdir=runs/photos

Data: crops of 17 photos that ship with scikit-image and scikit-learn; the label
is the photo, and held-out crops come from a third of each photo that is never
trained on (`perceiver_jax/data/images/photos.py`). Nothing is downloaded. The
run shows that the whole recipe works together on real images; it says nothing
about accuracy on ImageNet.

Architecture and recipe are those of `configs/imagenet.py:fourier` (IO,
app. A.1): Fourier features, a class query, LAMB with a constant rate
and then a cosine, Inception crops, flips, RandAugment, MixUp, CutMix and label
smoothing. Chosen for two CPU cores: the sizes, the length of the run,
RandAugment's 2 layers, 50 warm-up steps and averaged parameters.

Variants:
  "" (none): the model above.
  smoke: a few steps of a tiny model, in seconds.
"""

import ml_collections

from configs import base
from perceiver_jax.data.images import photos


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the config of a variant; see the module's docstring."""
  (), smoke = base.parse(variant, choices=())
  config = base.image_classification()
  config.num_steps = 2000
  config.batch_size = 64
  config.label_smoothing = 0.1
  config.mixing = {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}
  config.ema_decay = 0.99
  config.data.source = "photos"
  config.data.image_shape = (32, 32, 3)
  config.data.normalization = "imagenet"
  config.data.resize = "cubic"
  config.data.crop = "inception"
  config.data.flip = True
  config.data.rand_augment.num_layers = 2
  config.model = {
    "num_classes": photos.NUM_CLASSES,
    "adapter": {
      "prep_type": "pixels",
      "position_encoding": "fourier",
      "num_bands": 16,
      "max_resolution": (32, 32),
    },
    "encoder": {
      "num_latents": 32,
      "num_latent_channels": 128,
      "num_blocks": 2,
      "num_self_attends_per_block": 3,
      "num_cross_attends": 1,
      "num_self_attend_heads": 4,
    },
    "decoder": {"kind": "classification", "num_query_channels": 128},
  }
  config.optimizer.warmup_steps = 50
  config.log.every_steps = 50
  config.eval_every_steps = 250
  config.checkpoint.every_steps = 500
  if smoke:
    config.data.source_args.photos.num_train = 64
    config.data.source_args.photos.num_test = 32
    return base.smoke(config)
  return config

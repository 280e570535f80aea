r"""ImageNet classification: every ImageNet row of both papers.

  python -m experiments.train --config=configs/imagenet.py:fourier \
    --workdir=runs/imagenet --config.data.source_args.tfds.data_dir=DIR

Data: ILSVRC 2012, 1,281,167 training images and the 50,000 of the official
validation set for evaluation. `python -m scripts.data.prepare` prepares it with
TensorFlow Datasets. Or use folders of images: --config.data.source=image_folder
--config.data.source_args.image_folder.directory=DIR. The authors tuned on
10,000 training images: --config.data.train_split='train[10000:]'
--config.data.eval_split='train[:10000]'.

Hardware: the papers used 64 TPUv3. Split a batch that does not fit with
--config.num_microbatches; a smaller --config.batch_size lowers the learning
rate in proportion, as in the authors' code. --config.precision=bfloat16 is
meant for accelerators.

Variants:

Perceiver IO (Perceiver IO v3, app. A.1, Table 7), with the published top-1:
  fourier: Fourier features, 79.0.
  learned: learned positions, 72.7.
  conv: convolutional preprocessing, 82.1.
  fourier_average: one cross-attend, averaged latents, 78.6.
  learned_average: the same with learned positions, 67.6.
  conv_average: the same with convolutional preprocessing, 77.4.
Pretraining as on JFT (Perceiver IO v3, Table 7 and app. A.2), with any number
of labels per image, and mAP as the metric. JFT is not public: give ImageNet-21k
or other images of your own as folders (--config.data.source=image_folder), a
list (image_list) or TFDS with --config.data.source_args.tfds.label_feature, and
--config.model.num_classes; docs/imagenet.md has the formats. 64 TPUs of 16 GB
(v5e) need --config.num_microbatches=2, or 4 for RGB projected to 256 channels.
  jft_pretrain_fourier: Fourier features.
  jft_pretrain_fourier_projected: the same with RGB projected to 256 channels.
  jft_pretrain_conv: convolutional preprocessing.
Fine-tuning after that, from --config.init_from, a run of pretraining:
  jft_fourier: Fourier features, 84.5.
  jft_fourier_projected: the same with RGB projected to 256 channels, 84.5.
  jft_conv: convolutional preprocessing, 86.4.
The Perceiver (Perceiver v2, section 4.1, Tables 1 to 7):
  icml: 8 cross-attends, Fourier features, 78.0.
  permuted: the same with all pixels in one random order, 78.0.
  icml_image_coordinates: positions in the whole image instead of in its crop,
    which overfits (Figure 4, without a number).
  icml_learned: learned positions, one cross-attend, 70.9.
  icml_1: one cross-attend, 76.7.
  icml_2: two, interleaved, 76.5.
  icml_4: four, interleaved, 76.5.
  icml_2_start: two at the start, 76.7.
  icml_4_start: four at the start, 75.9.
  icml_8_start: eight at the start, 73.7.
  icml_unshared: no shared weights, 72.9.
  icml_cross_only_4: four cross-attends without self-attends, 39.4.
  icml_cross_only_8: eight, 45.3.
  icml_cross_only_12: twelve, which did not fit on 64 TPUs.
  transformer: a plain Transformer on images of 64 x 64, 57.0.
The Perceiver's figures, for which the text gives no values; a sweep trains
their points, `python -m scripts.sweep --config=configs/imagenet.py:figure5
--sweep=figure5_latents --out=DIR`:
  figure5: a small model without shared weights, for figure5_latents,
    figure5_channels, figure5_self_attends and figure5_cross_attends.
  figure6: the model of `icml` in batches of 256, for figure6_init_scale,
    figure6_bands and figure6_resolution.
Runs in seconds, offline, on crops of photos that ship with scikit-image (for
pretraining, on pairs of scikit-learn's digits):
  smoke: alone, or with any variant, as in `:conv,smoke`.

Not stated in the papers, and chosen: for the ICML variants the batch size
(1,024, as in IO), weight decay 0.1 and clipping at 10 (as in IO), no MixUp, no
CutMix and no label smoothing (the paper names none); for icml_learned how
pixels join their 128 position channels (RGB is appended, 131 channels in all);
the points of the figures, and a learning rate in proportion to their smaller
batches; for the Transformer 12 layers of 512 channels, 8 heads and MLPs of
2,048, whose pixels a linear layer brings to 254 channels beside 258 Fourier
features.
For pretraining on JFT app. A.2 states 14 epochs, batches of 8,192, a base
learning rate of 3e-4 (taken as the rate of that batch) with a cosine to 0,
weight decay 0.1, crops, resizing and flips, and a multi-one-hot cross-entropy
(taken as binary cross-entropies summed over classes); clipping at 10 is chosen.
JFT's fine-tuning has the optimizer and augmentation settings of training from
scratch, which IO, app. A.2, calls similar. For the Fourier model on JFT the
same appendix projects RGB to 256 channels before positions are appended; that
model has 213.08M parameters and the other 212.17M, of which Table 7 prints
212M, so both are here.

From the authors' code and not in the papers: label smoothing; the crops of
training (TensorFlow's `sample_distorted_bounding_box`, at most 10 attempts,
then the central crop of evaluation); and BatchNorm's statistics, which `conv`
takes over the images of one device, 16 of 1,024 on 64 devices. With fewer
devices, num_microbatches sets that number: 8 devices and 8 microbatches make it
16 (and update the running statistics 8 times a step).
--config.sync_batch_norm=True takes statistics over all devices instead. Chosen:
running statistics are averaged over the devices, where the authors' code keeps
those of the first. IO gives CutMix a "ratio of 0.2"; the authors' code mixes
half of each batch by MixUp with 0.2 and half by CutMix with 1, as here, each
image with a partner of its own: 1,024 mixed images read 2,048, and epochs count
mixed images.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_collections

from configs import base
from perceiver_jax.data.images import photos
from perceiver_jax.models import zoo
from perceiver_jax.models.published import tables


class _Row(NamedTuple):
  """A row of a table.

  Attributes:
    model: name of the model in the zoo.
    recipe: key of `_RECIPES`.
    encoder: leaves that differ from the zoo's encoder.
  """

  model: str
  recipe: str
  encoder: dict[str, Any] = {}  # noqa: RUF012 (read only)


def _cross_only(count: int) -> dict[str, int]:
  return {"num_cross_attends": count, "num_blocks": count}


def _at_start(count: int) -> dict[str, Any]:
  return {"num_cross_attends": count, "cross_attend_placement": "start"}


_ROWS = {
  "fourier": _Row("imagenet_fourier", "io"),
  "learned": _Row("imagenet_learned", "io"),
  "conv": _Row("imagenet_conv", "io"),
  "fourier_average": _Row("imagenet_fourier_average", "io"),
  "learned_average": _Row("imagenet_learned_average", "io"),
  "conv_average": _Row("imagenet_conv_average", "io"),
  "jft_pretrain_fourier": _Row("imagenet_jft_fourier", "jft_pretrain"),
  "jft_pretrain_fourier_projected": _Row(
    "imagenet_jft_fourier_projected", "jft_pretrain"
  ),
  "jft_pretrain_conv": _Row("imagenet_jft_conv", "jft_pretrain"),
  "jft_fourier": _Row("imagenet_jft_fourier", "jft"),
  "jft_fourier_projected": _Row("imagenet_jft_fourier_projected", "jft"),
  "jft_conv": _Row("imagenet_jft_conv", "jft"),
  "icml": _Row("imagenet_icml", "icml"),
  "permuted": _Row("imagenet_icml", "icml"),
  "icml_image_coordinates": _Row("imagenet_icml", "icml"),
  "icml_learned": _Row("imagenet_icml_learned", "icml"),
  "icml_1": _Row("imagenet_icml_1", "icml"),
  "icml_2": _Row("imagenet_icml_2", "icml"),
  "icml_4": _Row("imagenet_icml_4", "icml"),
  "icml_2_start": _Row("imagenet_icml", "icml", _at_start(2)),
  "icml_4_start": _Row("imagenet_icml", "icml", _at_start(4)),
  "icml_8_start": _Row("imagenet_icml", "icml", _at_start(8)),
  "icml_unshared": _Row("imagenet_icml_unshared", "icml"),
  "icml_cross_only_4": _Row("imagenet_icml_cross_only_4", "icml"),
  "icml_cross_only_8": _Row(
    "imagenet_icml_cross_only_4", "icml", _cross_only(8)
  ),
  "icml_cross_only_12": _Row(
    "imagenet_icml_cross_only_4", "icml", _cross_only(12)
  ),
  "transformer": _Row("imagenet_transformer_64", "icml"),
  "figure5": _Row("imagenet_icml_figure_5", "figure5"),
  "figure6": _Row("imagenet_icml", "figure6"),
}  # fmt: skip


def get_config(variant: str = "fourier") -> ml_collections.ConfigDict:
  """Returns the config of a variant; see the module's docstring."""
  name, smoke = base.parse(variant, tuple(_ROWS), "fourier")
  row = _ROWS[name]
  config = base.image_classification()
  config.model = zoo.get_spec(row.model)
  config.model.encoder.update(row.encoder)
  config.batch_size = 1024
  config.sync_batch_norm = False
  base.imagenet(config)
  config.checkpoint.every_steps = 2500
  config.eval_every_steps = 2500
  config.log.every_steps = 100
  config.published = tables.published(f"configs/imagenet.py:{name}")
  if name == "permuted":
    config.model.adapter.permutation_seed = 1
  if name == "icml_image_coordinates":
    config.model.adapter.coordinates = "image"
  if name == "transformer":
    config.data.image_shape = (64, 64, 3)
  _RECIPES[row.recipe](config)
  if name == "jft_conv":
    config.optimizer.learning_rate = 2e-4
  return _smoke(config) if smoke else config


def _io(config: ml_collections.ConfigDict) -> None:
  """Sets IO's recipe (app. A.1): a constant rate for half of 110 epochs."""
  config.num_epochs = 110.0
  _io_settings(config)


def _jft(config: ml_collections.ConfigDict) -> None:
  """Sets JFT fine-tuning (IO, app. A.2): a constant rate for 70,000 steps."""
  config.num_steps = 131_000
  config.optimizer.constant_fraction = 70 / 131
  _io_settings(config)


def _jft_pretrain(config: ml_collections.ConfigDict) -> None:
  """Sets pretraining on JFT (IO, app. A.2): 14 epochs in batches of 8,192."""
  config.task = "multilabel_image_classification"
  config.data.source = "image_folder"
  config.model.num_classes = 21_841  # ImageNet-21k's; JFT has about 18,000.
  config.num_epochs = 14.0
  config.batch_size = 8192
  config.optimizer.learning_rate = 3e-4
  config.optimizer.learning_rate_batch_size = 8192
  config.optimizer.schedule = "cosine"


def _io_settings(config: ml_collections.ConfigDict) -> None:
  """Sets the augmentation and the learning rate of both IO recipes."""
  config.label_smoothing = 0.1
  config.mixing = {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}
  config.data.rand_augment.num_layers = 4
  config.optimizer.learning_rate = 2e-3
  config.optimizer.learning_rate_batch_size = 1024


def _icml(config: ml_collections.ConfigDict) -> None:
  """Sets the Perceiver's recipe (section 4.1): a rate with three drops."""
  config.num_epochs = 120.0
  config.data.rand_augment.num_layers = 4
  config.optimizer.learning_rate = 4e-3
  config.optimizer.learning_rate_batch_size = 1024
  config.optimizer.schedule = "step"
  config.optimizer.boundaries = (0.7, 0.85, 0.95)  # Epochs 84, 102, 114.


def _figure5(config: ml_collections.ConfigDict) -> None:
  """Sets Figure 5 of the Perceiver: 5,000,000 steps in batches of 64."""
  _icml(config)
  config.num_epochs, config.num_steps = 0.0, 5_000_000
  config.batch_size = 64
  config.checkpoint.every_steps = config.eval_every_steps = 50_000


def _figure6(config: ml_collections.ConfigDict) -> None:
  """Sets Figure 6 of the Perceiver: the same recipe in batches of 256."""
  _icml(config)
  config.batch_size = 256
  config.checkpoint.every_steps = config.eval_every_steps = 10_000


_RECIPES = {
  "io": _io,
  "jft": _jft,
  "jft_pretrain": _jft_pretrain,
  "icml": _icml,
  "figure5": _figure5,
  "figure6": _figure6,
}


def sweep_figure5_latents() -> Iterator[dict[str, Any]]:
  """Varies the number of latents (Perceiver, Figure 5)."""
  for count in (64, 128, 256, 512, 1024):
    yield {"model.encoder.num_latents": count}


def sweep_figure5_channels() -> Iterator[dict[str, Any]]:
  """Varies the channels of the latents (Perceiver, Figure 5)."""
  for channels in (64, 128, 256, 512, 1024):
    yield {"model.encoder.num_latent_channels": channels}


def sweep_figure5_self_attends() -> Iterator[dict[str, Any]]:
  """Varies the self-attends of each block (Perceiver, Figure 5)."""
  for count in (1, 2, 4, 6, 8):
    yield {"model.encoder.num_self_attends_per_block": count}


def sweep_figure5_cross_attends() -> Iterator[dict[str, Any]]:
  """Varies the cross-attends, each with a block (Perceiver, Figure 5)."""
  for count in (1, 2, 4, 8):
    yield {
      "model.encoder.num_cross_attends": count,
      "model.encoder.num_blocks": count,
    }


def sweep_figure6_init_scale() -> Iterator[dict[str, Any]]:
  """Varies the scale of the initial latents (Perceiver, Figure 6)."""
  for scale in (0.01, 0.02, 0.05, 0.1, 0.5, 1.0):
    yield {"model.encoder.latent_init_scale": scale}


def sweep_figure6_bands() -> Iterator[dict[str, Any]]:
  """Varies the Fourier bands per dimension (Perceiver, Figure 6)."""
  for bands in (4, 8, 16, 32, 64, 128):
    yield {"model.adapter.num_bands": bands}


def sweep_figure6_resolution() -> Iterator[dict[str, Any]]:
  """Varies the highest Fourier frequency (Perceiver, Figure 6)."""
  for side in (28, 56, 112, 224, 448):
    yield {"model.adapter.max_resolution": (side, side)}


def _smoke(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Shortens the run: small crops of a few photos, a tiny model."""
  config = base.smoke(config)
  config.published = {}  # Those are of another model and other data.
  config.data.source = "photos"
  config.data.eval_split = "test"
  config.data.image_shape = (32, 32, 3)
  config.data.source_args.photos.num_train = 64
  config.data.source_args.photos.num_test = 32
  config.data.num_workers = 0
  config.model.num_classes = photos.NUM_CLASSES
  if config.task == "multilabel_image_classification":
    config.data.source = "digit_pairs"
    config.data.source_args.digit_pairs = {"num_train": 64, "num_test": 32}
    config.model.num_classes = 10
  if config.model.encoder.get("kind") == "transformer":
    # 14 channels beside 18 of positions: elements are as wide as its layers.
    config.model.adapter.update(num_channels=14, num_bands=4)
  return config

r"""Multimodal autoencoding of Kinetics-700-2020 (Perceiver IO v3, app. I).

  python -m experiments.train --config=configs/kinetics.py:latents_784 \
    --workdir=runs/kinetics --config.data.source_args.files.directory=DIR

Data: DIR has Kinetics' lists (train.csv, validate.csv) and, anywhere below it,
the clips, or folders DIR/train/CLASS/*.mp4; docs/kinetics.md says how they are
named, and how scripts.data.prepare_clips makes files that are faster to read.
An input is a window of 16 frames at 25 per second and 30,720 samples at 48,000
per second.

Hardware: not stated. Split a batch that does not fit with
--config.num_microbatches; --config.precision=bfloat16 is meant for
accelerators.

Variants:

Perceiver IO (Perceiver IO v3, Table 4), with the published PSNR of audio and
video in decibels, and top-1 accuracy:
  latents_784: 26.97, 24.37, 10.2.
  latents_392: 25.33, 24.27, 8.6.
  latents_196: 14.15, 23.21, 11.5.
  label_weight_1: 784 latents, a label loss 10,000 times heavier; video 20.7,
    top-1 45.
On generated clips of moving shapes and tones, for two CPU cores:
  small: a small model with loss weights of its own.
Clips of your own (--config.data.source_args.files.directory=DIR, with
DIR/CLASS/*.mp4, DIR/SPLIT/CLASS/*.mp4, or lists):
  own: the model of `small`, with the splits and classes of the data.
Runs in seconds, on generated clips, or for `own,smoke` on yours:
  smoke: alone, or with any variant, as in `:latents_196,smoke`.

Stated: the windows; the label masked in half of the training examples and
always in evaluation; losses 0.03 L1 of video, 1 L1 of audio, 0.0001
cross-entropy (0.03, 1, 1 in the second recipe); batch size 1,024, rate 1e-3;
training decodes 512 points of video, 512 of audio, and the label. A point of
audio is a patch of 16 samples, as in the authors' notebook (the text speaks of
512 samples). Not stated, and chosen: losses are means over the points of an
example; the optimizer, its schedule, weight decay and clipping (LAMB with a
rate that is constant for half of the run and then a cosine, as for ImageNet);
100 epochs, as for AudioSet; no augmentation of training clips except for the
random window; one window per clip in evaluation, in its middle; PSNR with a
peak of 1, for pixels from 0 to 1 and samples from -1 to 1, as a mean over
clips.
"""

from typing import Any

import ml_collections

from configs import base
from perceiver_jax.models import zoo
from perceiver_jax.models.published import tables

_VARIANTS = (
  "latents_784", "latents_392", "latents_196", "label_weight_1", "small",
  "own",
)  # fmt: skip


def get_config(variant: str = "latents_784") -> ml_collections.ConfigDict:
  """Returns the config of a variant; see the module's docstring."""
  name, smoke = base.parse(variant, _VARIANTS, "latents_784")
  config = base.run()
  config.task = "kinetics"
  number = name.removeprefix("latents_") if "latents" in name else "784"
  config.model = zoo.get_spec(f"kinetics_{number}")
  config.num_epochs = 100.0
  config.batch_size = 1024
  config.loss_weights = {"image": 0.03, "audio": 1.0, "label": 1e-4}
  config.label_mask_rate = 0.5  # Share of the training labels to mask.
  # Numbers of points that training decodes.
  config.num_queries = {"image": 512, "audio": 512}
  config.num_parts = 128  # In which evaluation decodes all points.
  config.optimizer.learning_rate = 1e-3
  config.checkpoint.every_steps = 2500
  config.eval_every_epochs = 10.0
  config.data = _data()
  config.published = tables.published(f"configs/kinetics.py:{name}")
  if name == "label_weight_1":
    config.loss_weights.label = 1.0
  if name in ("small", "own"):
    _small(config)
  if name == "own":
    # The data decides what is "" or 0; see
    # `perceiver_jax/tasks/own_data/clip_config.py`.
    config.data.update(source="files", train_split="", eval_split="")
    config.model.decoder.outputs.label.num_outputs = 0
  if smoke:
    _smoke(config, uses_own=name == "own")
  return config


def _data() -> dict[str, Any]:
  return {
    "source": "files",  # See `perceiver_jax.data.clips.sources.SOURCES`.
    # Arguments of each source, other than the split.
    "source_args": {
      "files": {"directory": "", "classes": "", "trimmed": True},
      "shards": {"directory": ""},
      "generated": {
        "num_train": 4096,
        "num_test": 256,
        "seconds": 3.0,
        "pairs_only": True,
        "scale": 1.5,
      },
    },
    "train_split": "train",
    "eval_split": "validate",
    "num_frames": 16,
    "fps": 25.0,
    "image_size": (224, 224),
    "num_samples": 30_720,
    "sample_rate": 48_000,
    "num_windows": 1,  # Per clip, in evaluation.
    "normalization": "zero_one",
    "audio": "raw",
    # Augmentation of training clips; see configs/audioset.py.
    "crop": "center",
    "flip": False,
    "color_jitter": {
      "probability": 0.0,
      "brightness": 0.125,
      "contrast": 0.4,
      "saturation": 0.4,
      "hue": 0.1,
    },
    "dropout": {"image": 0.0, "audio": 0.0},
    # It is an error if more clips (and more than ten) are unreadable.
    "max_unreadable_share": 0.01,
    "num_workers": 16,  # Processes that prepare batches; 0: threads.
  }


def _generated(config: ml_collections.ConfigDict) -> None:
  """Sets the data to small generated clips, and a model of their size."""
  config.published = {}  # Those are of another model and other data.
  data = config.data
  data.source, data.train_split, data.eval_split = "generated", "train", "test"
  data.num_frames, data.fps, data.image_size = 8, 12.5, (24, 24)
  data.num_samples, data.sample_rate = 5_120, 8_000
  data.num_workers = 0
  modalities = config.model.adapter.modalities
  outputs = config.model.decoder.outputs
  video = {"num_bands": 6, "max_resolution": (8, 24, 24)}
  audio = {"num_bands": 32, "max_resolution": (160,)}
  modalities.image.update(video)
  modalities.audio.update(samples_per_patch=32, **audio)
  outputs.image.update(shape=(8, 24, 24), **video)
  outputs.audio.update(shape=(160,), num_outputs=32, **audio)
  outputs.label.update(num_outputs=9, num_query_channels=64)
  config.model.decoder.num_decoded_channels = 64
  config.num_queries = {"image": 256, "audio": 64}
  config.num_parts = 4


def _small(config: ml_collections.ConfigDict) -> None:
  _generated(config)
  modalities = config.model.adapter.modalities
  outputs = config.model.decoder.outputs
  # Large patches: 18 elements of video and 40 of audio.
  modalities.image.update(
    temporal_downsample=4, spatial_downsample=8, num_channels=128
  )
  audio = {"num_bands": 20, "max_resolution": (40,)}
  modalities.audio.update(samples_per_patch=128, **audio)
  outputs.audio.update(shape=(40,), num_outputs=128, **audio)
  config.model.encoder.update(
    num_latents=96,
    num_latent_channels=96,
    num_self_attends_per_block=2,
    num_self_attend_heads=4,
    latent_init_scale=1.0,
  )
  config.model.decoder.num_decoded_channels = 96
  config.num_queries = {"image": 128, "audio": 32}
  config.loss_weights = {"image": 1.0, "audio": 1.0, "label": 0.003}
  config.num_epochs, config.num_steps = 0.0, 10_000
  config.batch_size = 16
  config.optimizer.update(
    name="adamw", learning_rate=4e-3, warmup_steps=50, weight_decay=0.01
  )
  config.checkpoint.every_steps = 1000
  config.eval_every_epochs = 0.0
  config.eval_every_steps = 1000


def _smoke(config: ml_collections.ConfigDict, *, uses_own: bool) -> None:
  """Shortens the run to a few steps of a tiny model."""
  if not uses_own:
    _generated(config)
    config.data.source_args.generated.update(num_train=32, num_test=16)
  config.eval_every_epochs = 0.0
  base.smoke(config)

r"""AudioSet classification (Perceiver v2, Table 3; Perceiver IO v3, Table 10).

  python -m experiments.train --config=configs/audioset.py:mel_video \
    --workdir=runs/audioset --config.data.source_args.files.directory=DIR

Data: DIR has AudioSet's lists (unbalanced_train_segments.csv,
eval_segments.csv), class_labels_indices.csv and, anywhere below it, the clips;
docs/audioset.md says how they are named, and how scripts.data.prepare_clips
makes files that are faster to read. An input is a window of 32 frames at 25 per
second and 61,440 samples at 48,000 per second: one at random from each clip in
training, 16 evenly spaced ones in evaluation, whose probabilities are averaged.
The metric is mAP.

Hardware: not stated. Split a batch that does not fit with
--config.num_microbatches; --config.precision=bfloat16 is meant for
accelerators.

Variants:

The Perceiver (Perceiver v2, Table 3), with the published mAP:
  raw: audio as 480 patches of 128 samples, 38.3 (38.4 in the text).
  mel: audio as the 4,800 values of a mel spectrogram, 38.4.
  video: video alone, in patches of 2 x 8 x 8, 25.8.
  raw_video: raw audio and video, 43.5.
  mel_video: spectrogram and video, 43.2.
  raw_video_no_dropout: video always kept, 39.7 (section 4.2).
  mel_video_no_dropout: video always kept, 39.9 (section 4.2).
  mel_video_tuned: no SpecAugment, spectrogram left out of 10%, 44.2.
The model whose attention the paper shows (Perceiver v2, Figures 16 to 31):
  attention_maps: 61,440 single samples, and video in patches of 2 x 4 x 4.
The first six with latents of 512 channels (see below):
  raw_512: as raw, 38.3.
  mel_512: as mel, 38.4.
  video_512: as video, 25.8.
  raw_video_512: as raw_video, 43.5.
  mel_video_512: as mel_video, 43.2.
  mel_video_tuned_512: as mel_video_tuned, 44.2.
Perceiver IO (Perceiver IO v3, Table 10):
  io_raw_video: raw audio and video, 43.3.
  io_mel_video: spectrogram and video, twice as wide, 44.9.
  average_raw_video: averaged latents instead of a query, 42.4.
  average_mel_video: averaged latents instead of a query, 43.6.
On generated clips of moving shapes and tones, for two CPU cores:
  small: spectrogram and video.
  small_audio: the spectrogram alone.
  small_video: video alone.
Clips of your own (--config.data.source_args.files.directory=DIR, with
DIR/CLASS/*.wav, DIR/SPLIT/CLASS/*.mp4, or lists), whose splits, classes and
durations set the rest of the config:
  own: spectrogram and video.
  own_audio: the spectrogram alone, of audio or video files.
  own_video: video alone.
Runs in seconds, on generated clips, or for `own,smoke` and the like on yours:
  smoke: alone, or with any variant, as in `:raw,smoke`.

Stated: 100 epochs; the windows; 2 x 8 self-attends and two cross-attends
without shared weights, or 12 self-attends and one cross-attend; video left out
of 30% of the examples; SpecAugment, color jitter, flips, Inception crops.
Ambiguous: the size of the latents in the Perceiver paper, which calls the model
a faster version of ImageNet's (512 x 1,024) with two iterations of attention;
512 x 1,024 is the default, and the Perceiver rows of IO (one cross-attend) are
512 x 512. Not stated, and chosen: the optimizer, its schedule, weight decay,
clipping and the batch (as for ImageNet in IO); the mel spectrogram (80 bands of
60 frames are the 4,800 values: a hop of 1,024 samples, a window of twice that,
all frequencies; the natural logarithm of power, plus 7, over 5, which maps the
quiet audio of a film, with a peak of 0.05, to -1.1 +- 0.8); the stripes of
SpecAugment (two along each axis, of up to 12% of the bands and 6% of the
frames, as in CNN-14); color jitter in 80% of the clips (brightness by up to
0.125 of white, contrast and saturation by up to 0.4, hue by up to 0.1 of a
turn); time jitter by the random window, the same for video and audio; pixels in
[-1, 1], so that video that is left out is gray; averages of probabilities, not
of logits; no class balancing (`data.balanced`).
"""

from typing import Any

import ml_collections

from configs import base
from perceiver_jax.models import zoo
from perceiver_jax.models.published import tables

# Variants with latents of 512 channels.
_NARROW = "_512"
_SMALL = {
  "small": ("audio", "image"),
  "small_audio": ("audio",),
  "small_video": ("image",),
}
_OWN = {
  "own": ("audio", "image"),
  "own_audio": ("audio",),
  "own_video": ("image",),
}
_MODELS = {
  "raw": "audioset_icml_raw",
  "mel": "audioset_icml_mel",
  "video": "audioset_icml_video",
  "raw_video": "audioset_icml_raw_video",
  "mel_video": "audioset_icml_mel_video",
  "raw_video_no_dropout": "audioset_icml_raw_video",
  "mel_video_no_dropout": "audioset_icml_mel_video",
  "mel_video_tuned": "audioset_icml_mel_video",
  "attention_maps": "audioset_icml_attention_maps",
  "io_raw_video": "audioset_io_raw_video",
  "io_mel_video": "audioset_io_mel_video",
  "average_raw_video": "audioset_average_raw_video",
  "average_mel_video": "audioset_average_mel_video",
}


def get_config(variant: str = "mel_video") -> ml_collections.ConfigDict:
  """Returns the config of a variant; see the module's docstring."""
  narrow = [f"{name}{_NARROW}" for name in _in_table_3()]
  choices = (*_MODELS, *narrow, *_SMALL, *_OWN)
  variant_name, smoke = base.parse(variant, choices, "mel_video")
  name = variant_name.removesuffix(_NARROW)
  model = _MODELS.get(name, _MODELS["io_mel_video"])
  config = base.run()
  config.task = "audioset"
  config.model = zoo.get_spec(model)
  if name != variant_name:
    config.model.encoder.num_latent_channels = 512
  config.num_epochs = 100.0
  config.batch_size = 1024
  config.optimizer.learning_rate = 2e-3
  config.optimizer.learning_rate_batch_size = 1024
  config.checkpoint.every_steps = 2500
  config.eval_every_epochs = 10.0
  config.data = _data("mel" if "mel" in model else "raw")
  config.published = tables.published(f"configs/audioset.py:{name}")
  if name == "mel_video_tuned":
    config.data.spec_augment.update(num_times=0, num_frequencies=0)
    config.data.dropout.audio = 0.1
  one = len(config.model.adapter.modalities) == 1
  if one or name.endswith("_no_dropout"):
    config.data.dropout.image = 0.0
  if name in _SMALL:
    _small(config, _SMALL[name])
  if name in _OWN:
    _own(config, _OWN[name])
  if smoke:
    _smoke(config, uses_own=name in _OWN)
  return config


def _in_table_3() -> list[str]:
  others = ("raw_video_no_dropout", "mel_video_no_dropout", "attention_maps")
  return [n for n in _MODELS if "icml" in _MODELS[n] and n not in others]


def _data(audio: str) -> dict[str, Any]:
  return {
    "source": "files",  # See `perceiver_jax.data.clips.sources.SOURCES`.
    # Arguments of each source, other than the split.
    "source_args": {
      "files": {"directory": "", "classes": "", "trimmed": True},
      "shards": {"directory": ""},
      "generated": {"num_train": 4096, "num_test": 512, "seconds": 3.0},
    },
    "train_split": "unbalanced_train_segments",
    "eval_split": "eval_segments",
    "num_frames": 32,
    "fps": 25.0,
    "image_size": (224, 224),
    "num_samples": 61_440,
    "sample_rate": 48_000,
    "num_windows": 16,  # Per clip, in evaluation.
    "balanced": False,  # Whether training draws classes equally often.
    "normalization": "unit",  # Or "imagenet".
    "crop": "inception",  # In training; or "center".
    "flip": True,
    # Share of the clips that are changed, and the largest changes.
    "color_jitter": {
      "probability": 0.8,
      "brightness": 0.125,
      "contrast": 0.4,
      "saturation": 0.4,
      "hue": 0.1,
    },
    "audio": audio,  # "raw" or "mel".
    "mel": {
      "window": 2048,
      "hop": 1024,
      "bands": 80,
      "lowest": 0.0,
      "highest": 24_000.0,
      "mean": -7.0,
      "deviation": 5.0,
    },
    # Numbers of masked stripes, and their largest widths.
    "spec_augment": {
      "num_times": 2,
      "times": 4,
      "num_frequencies": 2,
      "frequencies": 10,
    },
    # Shares of the training examples without video or audio.
    "dropout": {"image": 0.3, "audio": 0.0},
    # It is an error if more clips (and more than ten) are unreadable.
    "max_unreadable_share": 0.01,
    "num_workers": 16,  # Processes that prepare batches; 0: threads.
  }


def _generated(config: ml_collections.ConfigDict) -> None:
  """Sets the data to small, short generated clips."""
  config.published = {}  # Those are of another model and other data.
  data = config.data
  data.source, data.train_split, data.eval_split = "generated", "train", "test"
  data.crop, data.flip, data.color_jitter.probability = "center", False, 0.0
  data.num_frames, data.fps, data.image_size = 8, 6.25, (24, 24)
  data.num_samples, data.sample_rate = 10_240, 8_000
  data.mel.update(window=512, hop=256, bands=24, highest=4000.0)
  data.spec_augment.update(times=2, frequencies=3)
  data.num_windows = 4
  data.num_workers = 0
  config.model.num_classes = 15
  modalities = config.model.adapter.modalities
  if "image" in modalities:
    modalities.image.update(spatial_downsample=4, num_bands=4)
  if "audio" in modalities:
    modalities.audio.num_bands = 32
    if data.audio == "mel":
      # Each frame of the spectrogram, not each value, is an element.
      modalities.audio.samples_per_patch = data.mel.bands


def _small(
  config: ml_collections.ConfigDict, modalities: tuple[str, ...]
) -> None:
  _generated(config)
  config.model.encoder.update(
    num_latents=32,
    num_latent_channels=64,
    num_self_attends_per_block=4,
    num_self_attend_heads=4,
  )
  config.model.decoder.num_query_channels = 64
  for name in list(config.model.adapter.modalities):
    if name not in modalities:
      del config.model.adapter.modalities[name]
  if len(modalities) == 1:
    config.data.dropout.image = 0.0
    config.model.adapter.min_padding = 0
  config.num_epochs, config.num_steps = 0.0, 1000
  config.batch_size = 32
  config.optimizer.learning_rate_batch_size = 0
  config.optimizer.warmup_steps = 100
  config.optimizer.weight_decay = 0.01
  config.checkpoint.every_steps = 500
  config.eval_every_epochs = 0.0
  config.eval_every_steps = 500


def _own(
  config: ml_collections.ConfigDict, modalities: tuple[str, ...]
) -> None:
  """Sets a small model of clips whose number and length are not known yet."""
  _small(config, modalities)
  data = config.data
  # The data decides what is "" or 0; see
  # `perceiver_jax/tasks/own_data/clip_config.py`.
  data.source, data.train_split, data.eval_split = "files", "", ""
  config.model.num_classes = data.num_frames = data.num_samples = 0
  data.max_seconds = 2.0  # Of a window.
  data.fps, data.image_size = 8.0, (64, 64)
  data.crop, data.flip = "inception", True
  data.sample_rate = 16_000
  data.mel.update(window=1024, hop=512, bands=64, highest=8000.0)
  data.spec_augment.update(times=4, frequencies=8)
  chosen = config.model.adapter.modalities
  if "image" in chosen:
    chosen.image.update(spatial_downsample=8, num_bands=8)
  if "audio" in chosen:
    chosen.audio.samples_per_patch = data.mel.bands
  config.num_steps = 2000


def _smoke(config: ml_collections.ConfigDict, *, uses_own: bool) -> None:
  """Shortens the run to a few steps of a tiny model."""
  if not uses_own:
    _generated(config)
    config.data.source_args.generated.update(num_train=32, num_test=16)
  config.data.num_windows = 2
  config.eval_every_epochs = 0.0
  base.smoke(config)

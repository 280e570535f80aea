"""The leaves that every run has, and the names of variants.

Since every leaf can be set on the command line (`--config.batch_size=32`), none
is None or a list. Values that follow from other leaves (steps, schedules) are
computed from the final config.
"""

import dataclasses
from collections.abc import Sequence

import ml_collections

from perceiver_jax.errors import UserError
from perceiver_jax.models.ops.execution import Execution

_SMOKE = "smoke"


def parse(
  variant: str, choices: Sequence[str], default: str = ""
) -> tuple[str, bool]:
  """Parses the variant "name,smoke" of `--config=configs/x.py:name,smoke`.

  Args:
    variant: text after the colon.
    choices: names of the variants; none if the file has a single config.
    default: the name if the text has none.

  Returns:
    The variant's name, and whether the text has "smoke".

  Raises:
    UserError: a part is unknown, or there are two names.
  """
  known = ", ".join([*choices, _SMOKE])
  parts = [part for part in variant.split(",") if part]
  for part in parts:
    if part != _SMOKE and part not in choices:
      raise UserError(
        f"unknown variant {part!r} in --config=...:{variant}; choose from"
        f" {known}"
      )
  names = [part for part in parts if part != _SMOKE]
  if len(names) > 1:
    raise UserError(
      f"several variants in --config=...:{variant}; choose one from {known}"
    )
  return (names or [default])[0], _SMOKE in parts


def run() -> ml_collections.ConfigDict:
  """Returns the leaves of every run with their default values."""
  config = ml_collections.ConfigDict()
  config.task = ""
  config.model = ml_collections.ConfigDict()  # See `models.zoo.build`.
  config.seed = 0
  config.batch_size = 64
  config.num_microbatches = 1  # Parts of a batch, processed one by one.
  # ZeRO-1: each device keeps and updates a part of the optimizer's state.
  config.shard_optimizer_state = False
  config.num_steps = 0  # Set this or num_epochs.
  config.num_epochs = 0.0
  config.max_seconds = 0.0  # Save and stop after this time; 0: no limit.
  config.data_timeout_seconds = 600.0  # Longest wait for a batch; 0: no limit.
  config.init_from = ""  # Weights to start from: a file or folder of any kind.
  config.precision = "float32"  # Or "bfloat16".
  # How the model is computed; changes results only by rounding.
  config.execution = dataclasses.asdict(Execution())
  config.ema_decay = 0.0  # Evaluate averaged parameters; 0: no average.
  config.eval_every_steps = 0  # 0: at the end only, or by epochs.
  config.eval_every_epochs = 0.0
  # LAMB as in IO, app. A.1; b1, b2 and eps as in the authors' code.
  config.optimizer = {
    "name": "lamb",
    "learning_rate": 2e-3,
    "learning_rate_batch_size": 0,  # Batch size of this rate; 0: any.
    "schedule": "constant_cosine",
    "constant_fraction": 0.5,
    "warmup_steps": 0,
    "boundaries": (),  # Fractions of the run, for schedule "step".
    "decay_factor": 0.1,
    "weight_decay": 0.1,
    "clip_norm": 10.0,
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-6,
  }
  config.log = {
    "every_steps": 100,
    "tensorboard": True,
    "profile_from_step": 0,  # First step to profile; 0: on SIGUSR1 only.
    "profile_steps": 5,  # Number of steps to profile.
    "wandb_project": "",  # Needs the extra: pip install perceiver_jax[wandb].
  }
  config.checkpoint = {
    "every_steps": 1000,
    "every_epochs": 0.0,
    "keep_latest": 2,
    "keep_best": 1,
  }
  return config


def image_classification() -> ml_collections.ConfigDict:
  """Returns the leaves of every image classification run."""
  config = run()
  config.task = "image_classification"
  config.label_smoothing = 0.0
  # Whether BatchNorm's statistics span all devices or are those of each.
  config.sync_batch_norm = True
  config.data = {
    "source": "",  # See `perceiver_jax.data.images.sources.SOURCES`.
    # Arguments of each source, other than the split.
    "source_args": {
      "tfds": {"name": "", "data_dir": "", "label_feature": "label"},
      "image_folder": {"directory": ""},
      "image_list": {"directory": ""},
      "digit_pairs": {"num_train": 4096, "num_test": 512},
      "photos": {"size": 64, "num_train": 4096, "num_test": 1024},
    },
    "train_split": "train",
    "eval_split": "test",
    "image_shape": (224, 224, 3),
    "normalization": "unit",  # Or "imagenet": its mean and deviation.
    "resize": "area",  # Or "cubic", unclamped.
    "crop_fraction": 1.0,  # In evaluation, of the short side.
    "crop": "center",  # In training; or "inception": random crops.
    "flip": False,  # Mirror half of the training images.
    "rand_augment": {"num_layers": 0, "magnitude": 5.0},
    # Largest rotation, change of scale and shift (pixels) in training.
    "affine": {"degrees": 0.0, "scale": 0.0, "shift": 0.0},
    "invert_bright": False,  # In predict: invert dark ink on white.
    "num_workers": 0,  # Processes that prepare batches; 0: threads.
  }
  # Parameters of the beta distributions; MixUp and CutMix each change half of
  # a batch; 0: off.
  config.mixing = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}
  # The paper's metrics of the evaluation, and their "source".
  config.published = ml_collections.ConfigDict()
  return config


def imagenet(config: ml_collections.ConfigDict) -> None:
  """Sets the data of an image task to ImageNet, prepared by TFDS."""
  config.data.source = "tfds"
  config.data.source_args.tfds.name = "imagenet2012"
  config.data.eval_split = "validation"
  config.data.normalization = "imagenet"
  config.data.resize = "cubic"
  config.data.crop_fraction = 224 / 256
  config.data.crop = "inception"
  config.data.flip = True
  config.data.num_workers = 16


def smoke(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Shortens a run to seconds, to test that all parts work together."""
  config.num_steps, config.num_epochs = 4, 0.0
  config.batch_size = 8
  config.optimizer.warmup_steps = 0
  config.log.every_steps = 2
  config.checkpoint.every_steps = 2
  config.eval_every_steps = 4
  encoder, kind = config.model.encoder, config.model.encoder.get("kind")
  if kind == "transformer":
    encoder.update(num_layers=1, num_heads=2)
  elif kind == "pointnet":
    encoder.hidden_sizes = (8, 8, 16)
  elif kind == "mean_pooling":
    encoder.num_latent_channels = 16
  elif kind == "resampler":
    encoder.update(
      num_latents=8,
      num_latent_channels=16,
      num_layers=1,
      num_heads=2,
      head_channels=8,
    )
  elif kind == "perceiver_ar":
    encoder.update(
      num_latents=8, num_latent_channels=16, num_self_attends=1, num_heads=2
    )
  elif kind == "hierarchical":
    for part in (encoder, config.model.decoder):
      _shrink_blocks(part)
  else:
    encoder.num_latents = 8
    encoder.num_latent_channels = 16
    encoder.num_self_attends_per_block = 1
    encoder.num_self_attend_heads = 2
  return config


def _shrink_blocks(part: ml_collections.ConfigDict) -> None:
  """Makes the blocks of a Hierarchical Perceiver small, in the same groups."""
  if part.kind != "hierarchical":
    return
  count = len(part.num_groups)
  part.update(
    num_latents=(16,) * count,
    num_latent_channels=(16,) * count,
    num_self_attends=(1,) * count,
    num_self_attend_heads=(2,) * count,
  )

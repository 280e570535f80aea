r"""Optical flow (Perceiver IO v3, section 4.2, app. H, Tables 3 and 16).

  python -m experiments.train --config=configs/optical_flow.py:main \
    --workdir=runs/flow --config.data.source_args.autoflow.directory=DIR

Data: the public AutoFlow release (40,000 pairs; the paper says 400,000), every
200th pair held out. Or 400,000 pairs per epoch that are rendered on demand by
our own version of AutoFlow's generator, which was not released:
--config.data.train_source=rendered --config.data.eval_source=rendered
--config.data.source_args.rendered.textures=FOLDER_OF_IMAGES. FlyingChairs,
Sintel and KITTI are sources too. `python -m experiments.evaluate`
evaluates a run on Sintel and KITTI in tiles.

The errors listed are end-point errors on the training splits of Sintel clean,
Sintel final and KITTI-2015. It is not stated whether KITTI's is a mean over
pixels or over pairs, which differ in their numbers of known pixels.

Variants:
  main: patches of 3 x 3, frames concatenated; 1.81, 2.42, 4.98.
  separate: patches of 3 x 3, frames separate; 1.78, 2.70, 6.19.
  pixels: pixels, frames concatenated; 1.91, 2.56, 5.39.
  pixels_separate: pixels, frames separate; 1.72, 2.63, 5.93.
  conv: convolutions, frames concatenated; 1.84, 2.52, 4.83.
  conv_separate: convolutions, frames separate; 1.90, 2.53, 6.66.
  conv_light: `conv` with 16 layers and 1,024 latents; 2.06, 2.67, 6.12.
  small: `conv` for a CPU on rendered pairs of 32 x 48 pixels; see
    docs/optical_flow.md for its errors.
  own: `small` on pairs of your own, NAME_img1.png, NAME_img2.png and
    NAME_flow.flo in --config.data.source_args.pairs.directory=DIR.
  smoke: a few steps of a tiny model, in seconds, on rendered pairs
    (`own,smoke`: on yours); alone, or with any variant.

The recipe is app. H's: 480 epochs of 400,000 pairs in batches of 512, LAMB, a
cosine from 4e-4, and the augmentation that AutoFlow's authors released for
RAFT, with a curriculum on its severity. An opening phase has no augmentation
but uses every pair also reversed in time; the authors say that training fails
without that phase.

Those epochs are 375,000 steps, which this config takes with any source. With
the 39,800 public pairs these are 4,824 epochs; 480 would be 37,313 steps
(--config.num_steps=0 --config.num_epochs=480), a tenth of the paper's training.

Not stated in the paper, and chosen: the loss (the end-point error; `robust` is
PWC-Net's, on flow divided by 20), weight decay 0.01, clipping at 10, and the
lengths of the opening (5% of the run) and of the rise of the severity after it
(25%). The number of devices is not stated; --config.num_microbatches splits a
batch that does not fit, and --config.precision=bfloat16 is meant for
accelerators. BatchNorm's statistics are those of each device, as in the
authors' ImageNet code. The sizes, scenes and optimizer of `small` are ours
(Muon; LAMB learned nothing in a few hundred steps), and so are its heads, the
width of its decoder's MLP, the sum of each query with what it attended to, and
that it trains without augmentation.
"""

import ml_collections

from configs import base
from perceiver_jax.data.flow import augmentation as flow_augmentation
from perceiver_jax.data.flow import scene as flow_scene
from perceiver_jax.models import zoo
from perceiver_jax.models.published import tables

_MODELS = {
  "main": "flow",
  "separate": "flow_separate",
  "pixels": "flow_pixels",
  "pixels_separate": "flow_pixels_separate",
  "conv": "flow_conv",
  "conv_separate": "flow_conv_separate",
  "conv_light": "flow_conv_light",
}
_SMALL, _OWN = "small", "own"


def get_config(variant: str = "main") -> ml_collections.ConfigDict:
  """Returns the config of a variant; see the module's docstring."""
  name, smoke = base.parse(variant, (*_MODELS, _SMALL, _OWN), "main")
  config = base.run()
  config.task = "optical_flow"
  is_small = name in (_SMALL, _OWN)
  config.model = zoo.get_spec(_MODELS["conv" if is_small else name])
  config.num_steps = 375_000
  config.batch_size = 512
  config.loss = "epe"  # Or "robust".
  config.sync_batch_norm = False  # BatchNorm's statistics of each device.
  config.data = {
    "train_source": "autoflow",  # See `data.flow.sources.SOURCES`.
    "train_split": "train",
    "eval_source": "autoflow",
    "eval_split": "test",
    "source_args": _source_args(),
    "benchmarks": _benchmarks(),
    "augmentation": flow_augmentation.Augmentation()._asdict(),
    # Shares of the run: the opening, with reversed pairs and without
    # augmentation, and the rise of the severity after it.
    "curriculum": {"opening_share": 0.05, "rise_share": 0.25},
    # Processes that prepare batches; 0: threads. Each holds a few batches.
    "num_workers": 4,
  }
  config.optimizer.learning_rate = 4e-4
  config.optimizer.schedule = "cosine"
  config.optimizer.weight_decay = 0.01
  config.checkpoint.every_steps = 2500
  config.eval_every_steps = 2500
  config.published = ml_collections.ConfigDict(
    tables.published(f"configs/optical_flow.py:{name}")
  )
  if is_small:
    _small(config)
  if smoke:
    config = _smoke(config)
  if name == _OWN:
    config.data.train_source = config.data.eval_source = "pairs"
  return config


def _source_args() -> dict[str, object]:
  return {
    "autoflow": {"directory": ""},
    "flying_chairs": {"directory": ""},
    "sintel": {"directory": "", "render": "clean"},
    "kitti": {"directory": "", "year": "2015"},
    "pairs": {"directory": ""},
    "motorcycle": {"scale": 0.5},
    "rendered": {
      "size": (448, 576),  # AutoFlow's.
      "num_train": 400_000,
      "num_test": 256,
      "textures": "",  # A folder of images; empty: installed photos.
      "noise_share": 0.2,
      "texture_scale": (0.5, 2.0),
      "texture_detail": 0.0,  # Minimum detail; see `Textures`.
      "scene": flow_scene.Scene()._asdict(),
    },
  }


def _benchmarks() -> dict[str, object]:
  """Returns what experiments.evaluate evaluates at full resolution."""
  return {
    # Folders; empty: leave it out.
    "sintel": "",  # The training split, clean and final.
    "kitti_2012": "",  # The training split.
    "kitti_2015": "",  # The training split.
    "flying_chairs": "",  # The validation split.
    "autoflow": "",  # Every 200th pair.
    "rendered": False,  # Held-out rendered pairs, by source_args.rendered.
    "motorcycle": 0.0,  # Scale of scikit-image's Middlebury pair; 0: none.
    "tiles": "even",  # As in the paper; or "released": as in the notebook.
  }


def _rendered(config: ml_collections.ConfigDict, size: tuple[int, int]) -> None:
  """Sets the data to small rendered pairs; nothing is downloaded."""
  data = config.data
  data.train_source = data.eval_source = "rendered"
  data.num_workers = 0
  data.source_args.rendered.update(size=size)
  data.augmentation.erase_size = (size[0] // 8, size[0] // 4)
  data.augmentation.crop_margin = 0  # 20 pixels are most of such a frame.
  config.model.decoder.image_size = size


def _small(config: ml_collections.ConfigDict) -> None:
  """Sets the `conv` model at 32 x 48 pixels, with simpler scenes."""
  _rendered(config, (32, 48))
  config.data.source_args.rendered.update(
    texture_scale=(0.7, 2.0), texture_detail=6.0
  )
  config.data.source_args.rendered.scene.update(
    objects=(0, 2),
    diameter=(0.3, 0.9),
    translation=0.03,
    max_translation=2.0,
    rotation=2.0,
    scale=0.02,
    shear=0.005,
    follow_share=1.0,
    warp_share=0.3,
    background_translation=0.05,
    background_rotation=1.0,
    background_scale=0.01,
    background_shear=0.005,
    motion_blur_share=0.0,
    fog_share=0.0,
    light_share=0.0,
    noise_share=0.0,
  )
  config.num_steps = 11_000
  config.batch_size = 16
  config.ema_decay = 0.998
  config.model.adapter.update(
    num_channels=160, num_bands=4, max_resolution=(8, 12)
  )
  attention = {"qk_channels": 128, "v_channels": 128}
  config.model.encoder.update(
    num_latents=32,
    num_latent_channels=128,
    num_self_attends_per_block=4,
    num_self_attend_heads=4,
    num_cross_attend_heads=4,
    **attention,
  )
  # Unlike in the paper, what a pixel shows reaches its output directly, not
  # only through the weights of its attention to few latents.
  config.model.decoder.update(
    num_heads=4,
    widening_factor=4,
    use_query_residual=True,
    decoded_channels=64,
    **attention,
  )
  # Without augmentation, which does not help so small a model.
  config.data.curriculum.opening_share = 1.0
  config.optimizer.name = "muon"
  config.optimizer.learning_rate = 4e-3
  config.optimizer.warmup_steps = 100
  config.checkpoint.every_steps = 500
  config.eval_every_steps = 500


def _smoke(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Shortens the run: a few small pairs, a tiny model."""
  separate = not config.model.adapter.concat_frames
  stem = config.model.adapter.use_convolutions
  config = base.smoke(config)
  # The published errors are of another model and other data.
  config.published = ml_collections.ConfigDict()
  _rendered(config, (16, 24))
  config.data.source_args.rendered.update(num_train=64, num_test=16)
  grid = (4, 6) if stem else (16, 24)
  config.model.adapter.update(
    num_bands=2, num_channels=8,
    max_resolution=(2, *grid) if separate else grid,
  )  # fmt: skip
  config.model.decoder.decoded_channels = 8
  return config

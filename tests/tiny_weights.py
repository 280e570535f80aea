"""Weights of tiny models for tests of predictions."""

import jax
import numpy as np

from perceiver_jax import weights
from perceiver_jax.models import zoo
from perceiver_jax.weights import model

IMAGE_SIZE, CLASSES = 8, 7
LENGTH = 32
TILE = (24, 32)
# At 25 frames and 48,000 samples per second, these differ in length.
FRAMES, SAMPLES, CLIP_SIZE = 3, 512, (12, 16)
_PER_POINT = 4


def array(*shape, dtype="float32"):
  """Returns the abstract shape of raw inputs."""
  return jax.ShapeDtypeStruct(shape, dtype)


def classifier(name="imagenet_fourier", num_classes=CLASSES, channels=3):
  """Returns a classifier of 8 x 8 images."""
  spec = _small_encoder(name) | {"num_classes": num_classes}
  for leaf in ("num_bands", "num_channels", "num_position_channels"):
    if spec["adapter"].get(leaf):
      spec["adapter"][leaf] = 2
  spec["adapter"].pop("max_resolution", None)
  if spec["decoder"]["kind"] == "classification":
    spec["decoder"]["num_query_channels"] = 8
  return random(spec, array(1, IMAGE_SIZE, IMAGE_SIZE, channels), scale=0.3)


def language(vocab_size=262):
  """Returns a language model of 32 bytes."""
  spec = _small_encoder("language_bytes")
  spec["encoder"] |= {"qk_channels": 4, "v_channels": 8}
  spec["encoder"]["num_cross_attend_heads"] = 2
  sizes = {"max_length": LENGTH, "vocab_size": vocab_size, "num_channels": 8}
  spec["adapter"] |= sizes
  spec["decoder"] |= {
    "max_length": LENGTH,
    "num_query_channels": 8,
    "num_heads": 2,
    "qk_channels": 4,
    "v_channels": 8,
  }
  return random(spec, array(1, LENGTH, dtype="int32"))


def byte_bert():
  """Returns a plain Transformer of 32 bytes."""
  spec = zoo.get_spec("byte_bert")
  spec["adapter"] |= {"max_length": LENGTH, "num_channels": 8}
  spec["encoder"] |= {"num_layers": 1, "num_heads": 2}
  return random(spec, array(1, LENGTH, dtype="int32"))


def pointnet():
  """Returns PointNet as a classifier of 16 points."""
  spec = {
    "num_classes": CLASSES,
    "adapter": {"kind": "points", "num_bands": 0},
    "encoder": {"kind": "pointnet", "hidden_sizes": (4, 8)},
    "decoder": {"kind": "pointnet", "hidden_sizes": (4,)},
  }
  return random(spec, array(1, 16, 3))


def perceiver_ar(vocab_size=259, position_sizes=(LENGTH + 1,)):
  """Returns an autoregressive model of 32 tokens with 4 latents."""
  spec = {
    "adapter": {
      "kind": "tokens",
      "vocab_size": vocab_size,
      "num_channels": 8,
      "position_sizes": position_sizes,
    },
    "encoder": {
      "kind": "perceiver_ar",
      "num_latents": 4,
      "num_latent_channels": 8,
      "num_self_attends": 2,
      "num_heads": 2,
      "rotary_fraction": 0.5,
    },
    "decoder": {"kind": "next_token", "vocab_size": vocab_size},
  }
  return random(spec, {"tokens": array(1, LENGTH, dtype="int32")})


def hierarchical_perceiver():
  """Returns an autoencoder of 8 x 8 images and their labels."""
  spec = zoo.get_spec("hip_mini", adapter={"num_channels": 4})
  for part, num_groups in (("encoder", (4, 1)), ("decoder", (4,))):
    sizes = {
      "num_groups": num_groups,
      "num_latents": 4,
      "num_latent_channels": 8,
      "num_self_attends": 1,
      "num_self_attend_heads": 2,
    }
    spec[part] |= sizes
  raw = {
    "image": array(1, IMAGE_SIZE, IMAGE_SIZE, 3),
    "label": array(1, 1, CLASSES),
  }
  return random(spec, raw)


def flow():
  """Returns a flow model of 24 x 32 frames, with flow of tens of pixels."""
  spec = _small_encoder("flow")
  sizes = {"num_channels": 4, "num_bands": 2, "max_resolution": TILE}
  spec["adapter"] |= sizes
  spec["decoder"]["image_size"] = TILE
  return random(spec, array(1, 2, *TILE, 3))


def autoencoder():
  """Returns an autoencoder of 3 frames of 12 x 16 and 512 samples."""
  spec = _small_encoder("kinetics_784")
  parts = spec["adapter"]["modalities"]
  parts["audio"] |= {"num_bands": 2, "samples_per_patch": 32}
  parts["image"]["num_bands"] = 2
  spec["decoder"]["num_decoded_channels"] = 8
  outputs = spec["decoder"]["outputs"]
  outputs["audio"] |= {
    "shape": (SAMPLES // _PER_POINT,),
    "num_outputs": _PER_POINT,
    "num_bands": 2,
  }
  outputs["image"] |= {"shape": (FRAMES, *CLIP_SIZE), "num_bands": 2}
  outputs["label"] |= {"num_outputs": CLASSES, "num_query_channels": 24}
  raw = {
    "audio": array(1, SAMPLES, 1),
    "image": array(1, FRAMES, *CLIP_SIZE, 3),
    "label": array(1, CLASSES),
  }
  return random(spec, raw, scale=0.5)


def random(spec, raw, scale=1.0):
  """Returns random weights of a model without compiling it."""
  rng = np.random.default_rng(0)
  params, state = model.abstract_variables(spec, raw)
  draw = lambda x: (scale * rng.normal(size=x.shape)).astype(x.dtype)
  return weights.Weights(
    spec, jax.tree.map(draw, params), jax.tree.map(draw, state)
  )


def outputs(model_weights, raw, **kwargs):
  """Returns the outputs of a model, on the host."""
  apply = weights.transform(model_weights.spec).apply
  run = jax.jit(lambda p, s, x: apply(p, s, None, x, **kwargs)[0])
  return jax.device_get(run(model_weights.params, model_weights.state, raw))


def _small_encoder(name):
  spec = zoo.get_spec(name)
  spec["encoder"] |= {
    "num_latents": 4,
    "num_latent_channels": 8,
    "num_self_attend_heads": 2,
    "num_blocks": 1,
    "num_self_attends_per_block": 1,
  }
  return spec

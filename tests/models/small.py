"""The models of the zoo at tiny sizes."""

import haiku as hk
import jax
import numpy as np
from jax import numpy as jnp

from perceiver_jax.models import encoder, zoo
from perceiver_jax.models.ops.execution import AUTO

CLASSES, VOCABULARY, LENGTH = 5, 11, 7
ENCODER = encoder.EncoderConfig(
  num_latents=3,
  num_latent_channels=4,
  num_blocks=2,
  num_self_attends_per_block=1,
  num_cross_attends=2,
  num_self_attend_heads=2,
)
_ENCODER = {
  "num_latents": 3,
  "num_latent_channels": 8,
  "num_self_attend_heads": 2,
}
_COUNTS = ("num_blocks", "num_cross_attends", "num_self_attends_per_block")


def is_known(published_spec):
  """Returns whether `spec` shrinks a model; others have their own tests."""
  kind = published_spec["encoder"].get("kind", "perceiver")
  return kind in ("perceiver", "transformer")


def spec(name):
  """Returns a tiny spec of a model of the zoo, with all of its parts."""
  out = zoo.get_spec(name)
  encoder = out["encoder"]
  if encoder.get("kind") == "transformer":
    encoder |= {"num_layers": 2, "num_heads": 2}
    _shrink(encoder, num_channels=8)
  else:
    encoder |= _ENCODER
    for leaf in _COUNTS:
      encoder[leaf] = min(encoder[leaf], 2)
  if "num_classes" in out:
    out["num_classes"] = CLASSES
  _shrink_adapter(out["adapter"])
  _shrink_decoder(out["decoder"])
  if out["decoder"]["kind"] == "masked_lm":
    encoder |= {"qk_channels": 4, "v_channels": 8, "num_cross_attend_heads": 2}
  return out


def _shrink(section, **sizes):
  """Changes leaves that exist and are not zero."""
  section |= {k: v for k, v in sizes.items() if section.get(k)}


def _shrink_adapter(section):
  for part in section.get("modalities", {}).values():
    _shrink_adapter(part)
  _shrink(
    section,
    num_channels=8 if section.get("kind") == "text" else 4,
    vocab_size=VOCABULARY,
    max_length=LENGTH + 1,
    num_bands=2,
    num_position_channels=4,
    project_positions=6,
    samples_per_patch=2,
  )
  if section.get("prep_type") == "patches":
    section["spatial_downsample"] = 2
  if section.get("kind", "image") != "points":
    section.pop("max_resolution", None)
  if section.get("kind") == "flow":
    section["max_resolution"] = ()


def _shrink_decoder(section):
  _shrink(
    section,
    num_query_channels=8,
    num_heads=2,
    qk_channels=4,
    v_channels=8,
    max_length=LENGTH + 1,
    image_size=(5, 6),
    num_decoded_channels=6,
  )
  if section["kind"] in ("entities", "transformer_entities"):
    section["num_embedding_channels"] = 6
  for part in section.get("outputs", {}).values():
    # The label has the widest query, as in the paper's model.
    _shrink(part, num_bands=2, num_query_channels=20)
    if "shape" in part:
      video = len(part["shape"]) == 3
      part["shape"] = (2, 4, 4) if video else (4,)
      part["max_resolution"] = (2, 2, 2) if video else (8,)
      part["num_outputs"] = 3 if video else 2
    else:
      part["num_outputs"] = CLASSES


def raw(name, batch=2, seed=0):
  """Returns random raw data for a small model."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: jnp.asarray(
    rng.normal(size=(batch, *shape)), "float32"
  )
  family = name.split("_")[0]
  if family in ("language", "byte"):
    tokens = rng.integers(VOCABULARY, size=(batch, LENGTH))
    return jnp.asarray(tokens, "int32")
  if family in ("kinetics", "audioset"):
    frames = 2 if family == "kinetics" else 4
    data = {"audio": normal(8, 1), "image": normal(frames, 4, 4, 3)}
    label = {"label": normal(CLASSES)} if family == "kinetics" else {}
    used = spec(name)["adapter"]["modalities"]
    return {k: v for k, v in (data | label).items() if k in used}
  shapes = {
    "imagenet": (8, 8, 3),
    "flow": (2, 5, 6, 3),
    "modelnet40": (9, 3),
    "starcraft": (6, 10),
  }
  return normal(*shapes[family])


def mask(name, batch=2, seed=0):
  """Returns an input mask with padding, or None for models without masks."""
  if not zoo.MODELS[name].has_input_mask:
    return None
  length = raw(name).shape[1]
  real = np.random.default_rng(seed).random((batch, length)) < 0.6
  real[:, 0], real[:, -1] = True, False
  return jnp.asarray(real)


def model(small_spec, execution=AUTO):
  """Returns the Haiku model, called with the arguments of `Perceiver`."""
  return hk.transform_with_state(
    lambda x, **kwargs: zoo.build(small_spec, execution)(
      x, is_training=True, **kwargs
    )
  )


def shapes(model, *args, **kwargs):
  """Returns abstract parameters and state."""
  return jax.eval_shape(
    lambda key, args, kwargs: model.init(key, *args, **kwargs),
    jax.random.key(0),
    args,
    kwargs,
  )

"""Helpers that run models on the inputs of the golden Hugging Face models."""

import haiku as hk
import jax
import numpy as np
from jax import numpy as jnp

from perceiver_jax.models import zoo


def model_of(spec):
  return hk.transform_with_state(
    lambda raw, is_training=False, **kwargs: zoo.build(spec)(
      raw, is_training=is_training, **kwargs
    )
  )


def logits_of(spec, params, state, inputs):
  """Returns logits, named as in `golden/make_huggingface.outputs_of`."""
  raw, kwargs = _arguments(inputs)
  # Compilation takes nearly all of the time.
  fast = {"xla_backend_optimization_level": "0"}
  run = jax.jit(
    lambda p, s: model_of(spec).apply(p, s, None, raw, **kwargs)[0],
    compiler_options=fast,
  )
  logits = run(params, state).logits
  if isinstance(logits, dict):
    return {f"logits_{k}": np.asarray(v) for k, v in logits.items()}
  return {"logits": np.asarray(logits)}


def _arguments(inputs):
  if "audio" in inputs:
    names = ("audio", "image", "label")
    raw = {name: jnp.asarray(inputs[name]) for name in names}
    # transformers always masks the label.
    raw["masked"] = {"label": jnp.ones(len(raw["label"]), bool)}
    points = {k: jnp.asarray(inputs[f"{k}_points"]) for k in names[:2]}
    return raw, {"queries": points}
  mask = {"input_mask": jnp.asarray(inputs["mask"])} if "mask" in inputs else {}
  return jnp.asarray(inputs["raw"]), mask


def variables_of(spec, inputs, seed):
  """Returns random parameters and state of a model."""
  raw, kwargs = _arguments(inputs)
  shapes = jax.eval_shape(
    lambda key: model_of(spec).init(key, raw, True, **kwargs),
    jax.random.key(0),
  )
  rng = np.random.default_rng(seed)

  def random(path, x):
    if x.dtype == jnp.int32:
      return np.asarray(20_000, x.dtype)
    leaf = path[-1].key
    values = rng.normal(size=x.shape)
    if leaf == "w":
      values /= np.sqrt(np.prod(x.shape[-2:-1]))
    if leaf in ("average", "hidden"):
      values = 0.5 + values**2
    return values.astype(np.float32)

  return jax.tree_util.tree_map_with_path(random, shapes)

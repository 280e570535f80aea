"""Tests of resamplers and of mean pooling."""

import jax
import numpy as np
import plain
import pytest
from jax import numpy as jnp

from perceiver_jax.models import zoo

_LATENTS, _WIDTH, _FRAMES, _COUNT, _CHANNELS = 3, 12, 4, 2, 6


def _spec(**leaves):
  return {
    "adapter": {"kind": "features", "num_frames": _FRAMES},
    "encoder": {
      "kind": "resampler",
      "num_latents": _LATENTS,
      "num_latent_channels": _WIDTH,
      "num_layers": 2,
      "num_heads": 2,
      "head_channels": 4,
      "projection": "linear",
      **leaves,
    },
    "decoder": {"kind": "latents"},
  }


def _model(spec, **kwargs):
  return plain.transform(
    lambda x, mask=None: zoo.build(spec)(
      x, is_training=False, input_mask=mask, **kwargs
    )
  )


def _features(frames=_FRAMES, channels=_CHANNELS):
  return plain.normal(2, frames, _COUNT, channels)


def _latents(spec, features, params=None, mask=None):
  model = _model(spec)
  params = params or plain.random_params(model, features)
  apply = plain.jit(lambda p, x, m: model.apply(p, x, m).latents)
  return np.asarray(apply(params, features, mask)), params


def _norm(x, parameters, kind):
  if kind == "rms":
    return (
      x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (parameters["scale"])
    )
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
  return x * parameters["scale"] + parameters["offset"]


def _defined(params, features, kind, num_kv_heads):
  """Computes the resampler of the papers in NumPy."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  x = np.asarray(features) + params["adapter/frames"]["embeddings"][:, None]
  x = x.reshape(2, -1, _CHANNELS) @ params["encoder/projection"]["w"]
  latents = np.stack([params["encoder/latents"]["embeddings"]] * 2)
  for i in range(2):
    own = {
      name.partition("layers/layer/")[2]: {k: w[i] for k, w in leaves.items()}
      for name, leaves in params.items()
      if "layers/layer/" in name
    }
    normed = _norm(latents, own["latent_norm"], kind)
    both = np.concatenate([_norm(x, own["input_norm"], kind), normed], 1)
    heads = lambda x, count: x.reshape(*x.shape[:2], count, 4)
    q = heads(normed @ own["query"]["w"], 2)
    k, v = (
      heads(both @ own[name]["w"], num_kv_heads) for name in ("key", "value")
    )
    attended = []
    for head in range(2):
      shared = head * num_kv_heads // 2
      logits = np.einsum("bnf,bmf->bnm", q[:, :, head], k[:, :, shared]) / 2
      weights = np.exp(logits - logits.max(-1, keepdims=True))
      weights /= weights.sum(-1, keepdims=True)
      attended.append(weights @ v[:, :, shared])
    latents = latents + np.concatenate(attended, -1) @ own["output"]["w"]
    hidden = _norm(latents, own["mlp_norm"], kind)
    if "mlp/gate" in own:
      gate = hidden @ own["mlp/gate"]["w"]
      hidden = hidden @ own["mlp/hidden"]["w"] * gate / (1 + np.exp(-gate))
    else:
      hidden = np.maximum(hidden @ own["mlp/hidden"]["w"], 0) ** 2
    latents = latents + hidden @ own["mlp/output"]["w"]
  return _norm(latents, params["encoder/norm"], kind)


@pytest.mark.parametrize(
  ("norm", "activation", "num_kv_heads"),
  [("layer", "squared_relu", 2), ("rms", "swiglu", 1)],
)
def test_latents_are_those_of_the_definition(norm, activation, num_kv_heads):
  spec = _spec(norm=norm, activation=activation, num_kv_heads=num_kv_heads)
  latents, params = _latents(spec, _features())
  assert latents.shape == (2, _LATENTS, _WIDTH)
  want = _defined(params, _features(), norm, num_kv_heads)
  np.testing.assert_allclose(latents, want, atol=1e-4)


def test_gradients_reach_every_parameter():
  model = _model(_spec(norm="rms", activation="swiglu", num_kv_heads=1))
  params = plain.random_params(model, _features())
  weights = plain.normal(2, _LATENTS, _WIDTH, seed=3)
  loss = lambda p, x: (model.apply(p, x).latents * weights).sum()
  gradients = plain.jit(jax.grad(loss))(params, _features())
  for module, leaves in gradients.items():
    for leaf, value in leaves.items():
      assert np.abs(value).max() > 1e-6, (module, leaf)


def test_padding_has_no_effect():
  short, spec = _features(frames=3), _spec()
  padded = jnp.pad(short, ((0, 0), (0, 1), (0, 0), (0, 0)), constant_values=7.0)
  want, params = _latents(spec, short)
  mask = jnp.broadcast_to(jnp.arange(_FRAMES * _COUNT) < 3 * _COUNT, (2, 8))
  latents, _ = _latents(spec, padded, params, mask)
  np.testing.assert_allclose(latents, want, atol=1e-5)


def test_the_order_of_frames_matters_and_that_of_their_features_does_not():
  features, spec = _features(), _spec()
  want, params = _latents(spec, features)
  latents, _ = _latents(spec, features[:, :, ::-1], params)
  np.testing.assert_allclose(latents, want, atol=1e-5)
  latents, _ = _latents(spec, features[:, ::-1], params)
  assert np.abs(latents - want).max() > 1e-3


def test_the_mean_ignores_order_and_padding():
  spec = _spec() | {
    "encoder": {"kind": "mean_pooling", "num_latent_channels": _WIDTH}
  }
  features = _features()
  want, params = _latents(spec, features)
  assert want.shape == (2, 1, _WIDTH)
  latents, _ = _latents(spec, features[:, ::-1], params)
  np.testing.assert_allclose(latents, want, atol=1e-5)
  mask = jnp.ones((2, 8), bool)
  latents, _ = _latents(spec, features, params, mask)
  np.testing.assert_allclose(latents, want, atol=1e-5)
  mask = mask.at[:, -1].set(False)
  changed = features.at[:, -1, -1].set(jnp.nan)
  one, _ = _latents(spec, features, params, mask)
  other, _ = _latents(spec, changed, params, mask)
  np.testing.assert_allclose(one, other, atol=1e-5)


def test_initial_latents_replace_the_learned_ones():
  spec, features = _spec(), _features()
  learned, params = _latents(spec, features)
  start = plain.normal(_LATENTS, _WIDTH, seed=5)
  table = {"encoder/latents": {"embeddings": start}}
  want, _ = _latents(spec, features, params | table)
  out = _model(spec, initial_latents=start).apply(params, features)
  np.testing.assert_allclose(out.latents, want, atol=1e-5)
  assert np.abs(want - learned).max() > 1e-3


def test_initial_latents_of_another_width_are_refused():
  model = _model(_spec(), initial_latents=jnp.zeros((_LATENTS, 5)))
  with pytest.raises(ValueError, match="5 channels: give 12, or change"):
    jax.eval_shape(model.init, jax.random.key(0), _features())


@pytest.mark.parametrize(
  ("leaves", "message"),
  [
    ({"projection": "none"}, "6 channels and the latents 12"),
    ({"num_kv_heads": 3}, "3 heads of keys and values do not divide 2"),
    ({"norm": "batch"}, "norm 'batch': choose one of layer, rms"),
    ({"activation": "tanh"}, "choose one of squared_relu, swiglu"),
    ({"projection": "mlp"}, "choose one of none, linear, swiglu"),
  ],
)
def test_impossible_sizes_are_refused(leaves, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(_model(_spec(**leaves)).init, jax.random.key(0), _features())


def test_more_frames_than_embeddings_are_refused():
  with pytest.raises(ValueError, match="only 4 positions"):
    jax.eval_shape(_model(_spec()).init, jax.random.key(0), _features(frames=5))

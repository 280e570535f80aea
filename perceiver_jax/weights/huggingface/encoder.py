"""Conversion between the encoder of a spec and a transformers configuration."""

from collections.abc import Mapping
from typing import Any

from perceiver_jax.models.encoder import EncoderConfig

Config = Mapping[str, Any]
Spec = Mapping[str, Any]

# Defaults of transformers' PerceiverConfig.
DEFAULTS = {
  "num_latents": 256,
  "d_latents": 1280,
  "d_model": 768,
  "num_blocks": 1,
  "num_self_attends_per_block": 26,
  "num_self_attention_heads": 8,
  "num_cross_attention_heads": 8,
  "qk_channels": None,
  "v_channels": None,
  "cross_attention_shape_for_attention": "kv",
  "self_attention_widening_factor": 1,
  "cross_attention_widening_factor": 1,
  "hidden_act": "gelu",
  "use_query_residual": True,
  "vocab_size": 262,
  "max_position_embeddings": 2048,
  "image_size": 56,
  "train_size": (368, 496),
  "num_frames": 16,
  "audio_samples_per_frame": 1920,
  "samples_per_patch": 16,
  "output_shape": (1, 16, 224, 224),
  "output_num_channels": 512,
  "_label_trainable_num_channels": 1024,
  "num_labels": 2,
}
# Leaf of the encoder section to leaf of the configuration.
_ENCODER = {
  "num_latents": "num_latents",
  "num_latent_channels": "d_latents",
  "num_blocks": "num_blocks",
  "num_self_attends_per_block": "num_self_attends_per_block",
  "num_self_attend_heads": "num_self_attention_heads",
  "num_cross_attend_heads": "num_cross_attention_heads",
  "self_attend_widening_factor": "self_attention_widening_factor",
  "cross_attend_widening_factor": "cross_attention_widening_factor",
  "use_query_residual": "use_query_residual",
}
_WIDTHS = ("qk_channels", "v_channels")
ENCODER_KEYS = (
  *_ENCODER.values(),
  *_WIDTHS,
  "cross_attention_shape_for_attention",
  "hidden_act",
)
GELUS = {
  "gelu": "exact",
  "gelu_python": "exact",
  "gelu_pytorch_tanh": "tanh",
  "gelu_new": "tanh",
  "gelu_fast": "tanh",
}
_HIDDEN_ACTS = {"exact": "gelu", "tanh": "gelu_pytorch_tanh"}


def spec_from_config(config: Config) -> dict[str, Any]:
  """Returns the encoder section of a spec for a configuration."""
  return EncoderConfig()._asdict() | {
    **{leaf: config[key] for leaf, key in _ENCODER.items()},
    **{width: config[width] or 0 for width in _WIDTHS},
    **attention_options(config),
  }


def config_from_spec(spec: Spec) -> dict[str, Any]:
  """Returns the leaves of a configuration for the encoder of a spec."""
  encoder, decoder = spec["encoder"], spec["decoder"]
  # The configuration has one leaf for encoder and decoder. A section with
  # explicit `qk_channels` ignores it.
  section = decoder if encoder["qk_channels"] else encoder
  return {
    **{key: encoder[leaf] for leaf, key in _ENCODER.items()},
    **{width: encoder[width] or None for width in _WIDTHS},
    "cross_attention_shape_for_attention": section["shape_for_attn"],
    "hidden_act": _HIDDEN_ACTS[encoder["gelu"]],
  }


def attention_options(config: Config) -> dict[str, str]:
  """Returns the leaves that the encoder and decoder sections share."""
  return {
    "shape_for_attn": config["cross_attention_shape_for_attention"],
    "gelu": GELUS[config["hidden_act"]],
  }

"""The Perceiver classes of Hugging Face's transformers, as specs.

Their code fixes many settings, and a configuration holds the rest. The specs
reproduce the differences from DeepMind's models: GELU is exact unless
`hidden_act` names the tanh approximation, queries at padding attend too, and
the convolutional stem pads as PyTorch does. Dropout of 0.1 on attention weights
in training has no counterpart here.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from jax import numpy as jnp

from perceiver_jax.errors import UserError
from perceiver_jax.models import flops
from perceiver_jax.weights.huggingface.encoder import (
  ENCODER_KEYS,
  Config,
  Spec,
  attention_options,
)


class Architecture(NamedTuple):
  """A Perceiver class of transformers.

  Attributes:
    own_keys: Leaves of a configuration that it uses, besides the encoder's.
    spec_from_config: Converts a configuration to a spec without its encoder.
    config_from_spec: Converts a spec, and the number of rows of its position
      table (0 if it has none), to the values of `own_keys`.
    dummy_inputs: Returns abstract raw inputs of batch size 1 for a
      configuration.
  """

  own_keys: tuple[str, ...]
  spec_from_config: Callable[[Config], dict[str, Any]]
  config_from_spec: Callable[[Spec, int], dict[str, Any]]
  dummy_inputs: Callable[[Config], Any]

  @property
  def keys(self) -> tuple[str, ...]:
    """Returns all leaves of a configuration that the class uses."""
    return ENCODER_KEYS + self.own_keys


def _text(config: Config) -> dict[str, Any]:
  return {
    "kind": "text",
    "vocab_size": config["vocab_size"],
    "num_channels": config["d_model"],
    "max_length": config["max_position_embeddings"],
  }


def _text_config(spec: Spec, _: int) -> dict[str, Any]:
  adapter = spec["adapter"]
  return {
    "vocab_size": adapter["vocab_size"],
    "d_model": adapter["num_channels"],
    "max_position_embeddings": adapter["max_length"],
  }


def _token_inputs(config: Config) -> Any:
  length = config["max_position_embeddings"]
  return flops.abstract(1, length, dtype=jnp.int32)


_TEXT_KEYS = ("vocab_size", "d_model", "max_position_embeddings")


def _masked_lm(config: Config) -> dict[str, Any]:
  decoder = {
    "kind": "masked_lm",
    "max_length": config["max_position_embeddings"],
    "num_query_channels": config["d_model"],
    "num_heads": 8,
    "qk_channels": 256,
    "v_channels": config["d_model"],
    "use_query_residual": False,
    "use_query_mask": False,
    **attention_options(config),
  }
  return {"adapter": _text(config), "decoder": decoder}


def _classifier(
  adapter: Callable[[Config], dict[str, Any]],
) -> Callable[[Config], dict[str, Any]]:
  def sections(config):
    decoder = {
      "kind": "classification",
      "num_query_channels": config["d_latents"],
      "use_query_residual": True,
      **attention_options(config),
    }
    return {
      "num_classes": config["num_labels"],
      "adapter": adapter(config),
      "decoder": decoder,
    }

  return sections


def _labels_config(spec: Spec, _: int) -> dict[str, Any]:
  return {"num_labels": spec["num_classes"]}


def _learned_config(spec: Spec, num_positions: int) -> dict[str, Any]:
  return _labels_config(spec, 0) | {"image_size": math.isqrt(num_positions)}


_FOURIER = {
  "kind": "image",
  "prep_type": "pixels",
  "position_encoding": "fourier",
  "num_bands": 64,
  "max_resolution": (224, 224),
}
_LEARNED = {
  "kind": "image",
  "prep_type": "conv1x1",
  "num_channels": 256,
  "position_encoding": "trainable",
  "num_position_channels": 256,
  "project_positions": 256,
}
_CONV = {
  "kind": "image",
  "prep_type": "conv",
  "num_channels": 64,
  "spatial_downsample": 4,
  "padding": "torch",
  "position_encoding": "fourier",
  "num_bands": 64,
  # DeepMind's padding gives 56 x 56 elements, this one 55 x 55.
  "max_resolution": (56, 56),
}


def _flow(config: Config) -> dict[str, Any]:
  adapter = {
    "kind": "flow",
    "num_channels": 64,
    "num_bands": 64,
    "max_resolution": config["train_size"],
  }
  decoder = {
    "kind": "flow",
    "image_size": config["train_size"],
    **attention_options(config),
  }
  return {"adapter": adapter, "decoder": decoder}


def _video_resolution(config: Config) -> tuple[int, ...]:
  return config["num_frames"], config["image_size"], config["image_size"]


def _num_samples(config: Config) -> int:
  return config["num_frames"] * config["audio_samples_per_frame"]


def _multimodal(config: Config) -> dict[str, Any]:
  size = config["samples_per_patch"]
  video = {"num_bands": 32, "max_resolution": _video_resolution(config)}
  audio = {"num_bands": 192, "max_resolution": (_num_samples(config),)}
  patches = {"prep_type": "patches", "spatial_downsample": 4}
  adapter = {
    "kind": "multimodal",
    "min_padding": 4,
    "modalities": {
      "audio": {"kind": "audio", "samples_per_patch": size, **audio},
      "image": {"kind": "image", **patches, **video},
      "label": {"kind": "label"},
    },
  }
  outputs = {
    "audio": {
      "shape": (_num_samples(config) // size,),
      "num_outputs": size,
      **audio,
    },
    "image": {
      "shape": config["output_shape"][1:],
      "num_outputs": 3,
      **video,
    },
    "label": {
      "num_outputs": config["num_labels"],
      "num_query_channels": config["_label_trainable_num_channels"],
    },
  }
  decoder = {
    "kind": "multimodal",
    "min_padding": 2,
    "num_decoded_channels": config["output_num_channels"],
    "outputs": outputs,
    **attention_options(config),
  }
  return {"adapter": adapter, "decoder": decoder}


def _multimodal_config(spec: Spec, _: int) -> dict[str, Any]:
  outputs = spec["decoder"]["outputs"]
  if sorted(outputs) != ["audio", "image", "label"]:
    raise UserError(
      f"modalities {', '.join(sorted(outputs))}: transformers only supports"
      " audio, image and label together"
    )
  image, label = outputs["image"], outputs["label"]
  (num_samples,) = outputs["audio"]["max_resolution"]
  num_frames, image_size, _ = image["max_resolution"]
  return {
    "num_frames": num_frames,
    "image_size": image_size,
    "audio_samples_per_frame": num_samples // num_frames,
    "samples_per_patch": outputs["audio"]["num_outputs"],
    "output_shape": (1, *image["shape"]),
    "output_num_channels": spec["decoder"]["num_decoded_channels"],
    "_label_trainable_num_channels": label["num_query_channels"],
    "num_labels": label["num_outputs"],
  }


def _multimodal_inputs(config: Config) -> dict[str, Any]:
  side = 4 * config["image_size"]  # `image_size` counts patches.
  frames = (config["num_frames"], side, side)
  return {
    "audio": flops.abstract(1, _num_samples(config), 1),
    "image": flops.abstract(1, *frames, 3),
    "label": flops.abstract(1, config["num_labels"]),
  }


def _image_inputs(_: Config) -> Any:
  # Parameters do not depend on the size of images.
  return flops.abstract(1, 16, 16, 3)


ARCHITECTURES = {
  "PerceiverForMaskedLM": Architecture(
    _TEXT_KEYS, _masked_lm, _text_config, _token_inputs
  ),
  "PerceiverForSequenceClassification": Architecture(
    (*_TEXT_KEYS, "num_labels"),
    _classifier(_text),
    lambda spec, rows: _text_config(spec, rows) | _labels_config(spec, rows),
    _token_inputs,
  ),
  "PerceiverForImageClassificationLearned": Architecture(
    ("num_labels", "image_size"),
    _classifier(lambda _: dict(_LEARNED)),
    _learned_config,
    lambda config: flops.abstract(
      1, config["image_size"], config["image_size"], 3
    ),
  ),
  "PerceiverForImageClassificationFourier": Architecture(
    ("num_labels",),
    _classifier(lambda _: dict(_FOURIER)),
    _labels_config,
    _image_inputs,
  ),
  "PerceiverForImageClassificationConvProcessing": Architecture(
    ("num_labels",),
    _classifier(lambda _: dict(_CONV)),
    _labels_config,
    _image_inputs,
  ),
  "PerceiverForOpticalFlow": Architecture(
    ("train_size",),
    _flow,
    lambda spec, _: {"train_size": tuple(spec["decoder"]["image_size"])},
    lambda config: flops.abstract(1, 2, *config["train_size"], 3),
  ),
  "PerceiverForMultimodalAutoencoding": Architecture(
    (
      "num_frames",
      "image_size",
      "audio_samples_per_frame",
      "samples_per_patch",
      "output_shape",
      "output_num_channels",
      "_label_trainable_num_channels",
      "num_labels",
    ),
    _multimodal,
    _multimodal_config,
    _multimodal_inputs,
  ),
}

_CLASSIFIER = "PerceiverForImageClassification"
# Adapter kind, decoder kind and pixel preparation (`prep_type`) to class name.
_CLASS_NAMES = {
  ("text", "masked_lm", None): "PerceiverForMaskedLM",
  ("text", "classification", None): "PerceiverForSequenceClassification",
  ("image", "classification", "conv1x1"): f"{_CLASSIFIER}Learned",
  ("image", "classification", "pixels"): f"{_CLASSIFIER}Fourier",
  ("image", "classification", "conv"): f"{_CLASSIFIER}ConvProcessing",
  ("flow", "flow", None): "PerceiverForOpticalFlow",
  ("multimodal", "multimodal", None): "PerceiverForMultimodalAutoencoding",
}


def class_name(spec: Spec) -> str | None:
  """Returns the name of the class for a complete spec, or None."""
  adapter, decoder = spec["adapter"], spec["decoder"]
  key = (adapter["kind"], decoder["kind"], adapter.get("prep_type"))
  return _CLASS_NAMES.get(key)

"""Tensor names and layouts of Hugging Face's Perceivers.

The tables are used in both directions: each PyTorch tensor has one location in
the trees of this project, and each array there corresponds to one tensor, or to
one tensor per layer of a stack. PyTorch stores linear weights as [out, in] and
convolutions as [out, in, height, width].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
  """Conversion of an array from and to PyTorch's layout."""

  from_torch: Callable[[np.ndarray], np.ndarray]
  to_torch: Callable[[np.ndarray], np.ndarray]


_SAME = Layout(lambda x: x, lambda x: x)
_LINEAR = Layout(np.transpose, np.transpose)
_CONV = Layout(
  lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)
_CHANNELS = Layout(lambda x: x[None, None, None], lambda x: x[0, 0, 0])


class Location(NamedTuple):
  """Location of a PyTorch tensor in the parameters or state of this project.

  Attributes:
    module: Name of the module.
    leaf: Name of the array in the module.
    layout: Conversion of the layout.
    layer: Index on the leading axis of a stack, or None.
  """

  module: str
  leaf: str
  layout: Layout = _SAME
  layer: int | None = None


# By the name of the PyTorch tensor.
Locations = dict[str, Location]

_LINEARS = {
  "attention.self.query": "attention/query",
  "attention.self.key": "attention/key",
  "attention.self.value": "attention/value",
  "attention.output.dense": "attention/output",
  "mlp.dense1": "mlp/hidden",
  "mlp.dense2": "mlp/output",
}
_CROSS_NORMS = {
  "attention.self.layernorm1": "query_norm",
  "attention.self.layernorm2": "input_norm",
  "layernorm": "mlp_norm",
}
_SELF_NORMS = {
  "attention.self.layernorm1": "attention_norm",
  "layernorm": "mlp_norm",
}
_INPUT = "perceiver.input_preprocessor"
_OUTPUT = "perceiver.output_postprocessor.modalities"
_DECODER = "perceiver.decoder"
_TABLE = "output_position_encodings.position_embeddings"
_MODALITIES = ("audio", "image", "label")
_BATCH_NORM = f"{_INPUT}.convnet.batchnorm"
_STEM = "adapter/stem/batch_norm_0"
MEAN, VARIANCE = f"{_STEM}/~/mean_ema", f"{_STEM}/~/var_ema"


def locations(architecture: str, num_self_attends: int) -> Locations:
  """Returns the locations of all tensors of a model.

  Args:
    architecture: Class in transformers; a key of `ARCHITECTURES`.
    num_self_attends: Number of self-attention layers of the block.
  """
  masked_lm = architecture == "PerceiverForMaskedLM"
  decoder = _DECODER if masked_lm else f"{_DECODER}.decoder"
  return {
    **_table("perceiver.embeddings.latents", "encoder/latents"),
    **_cross_attend(
      "perceiver.encoder.cross_attention", "encoder/cross_attend_0"
    ),
    **_self_attends(num_self_attends),
    **_cross_attend(
      f"{decoder}.decoding_cross_attention", "decoder/cross_attend"
    ),
    **_BY_ARCHITECTURE[architecture],
  }


def _linear(
  tensor: str, module: str, layout: Layout = _LINEAR, layer: int | None = None
) -> Locations:
  return {
    f"{tensor}.weight": Location(module, "w", layout, layer),
    f"{tensor}.bias": Location(module, "b", _SAME, layer),
  }


def _norm(
  tensor: str, module: str, layout: Layout = _SAME, layer: int | None = None
) -> Locations:
  return {
    f"{tensor}.weight": Location(module, "scale", layout, layer),
    f"{tensor}.bias": Location(module, "offset", layout, layer),
  }


def _cross_attend(tensor: str, module: str) -> Locations:
  result = {}
  for suffix, name in _LINEARS.items():
    result |= _linear(f"{tensor}.{suffix}", f"{module}/{name}")
  for suffix, name in _CROSS_NORMS.items():
    result |= _norm(f"{tensor}.{suffix}", f"{module}/{name}")
  return result


def _self_attends(count: int) -> Locations:
  module, result = "encoder/block_0/layers/self_attend", {}
  for i in range(count):
    tensor = f"perceiver.encoder.self_attends.{i}"
    for suffix, name in _LINEARS.items():
      result |= _linear(f"{tensor}.{suffix}", f"{module}/{name}", layer=i)
    for suffix, name in _SELF_NORMS.items():
      result |= _norm(f"{tensor}.{suffix}", f"{module}/{name}", layer=i)
  return result


def _table(tensor: str, module: str) -> Locations:
  return {tensor: Location(module, "embeddings")}


def _multimodal() -> Locations:
  label = f"{_DECODER}.modalities.label.decoder.{_TABLE}"
  result = _table(label, "decoder/label_query")
  for m in _MODALITIES:
    result |= _table(f"{_INPUT}.padding.{m}", f"adapter/{m}_padding")
    result |= _table(f"{_INPUT}.mask.{m}", f"adapter/{m}_mask")
    result |= _table(f"{_DECODER}.padding.{m}", f"decoder/{m}_padding")
    result |= _linear(f"{_OUTPUT}.{m}.classifier", f"decoder/{m}_output")
  return result


_OUTPUT_PROJECTION = _linear(
  f"{_DECODER}.decoder.final_layer", "decoder/output"
)
_CLASSIFIER = {
  **_table(f"{_DECODER}.decoder.{_TABLE}", "decoder/query"),
  **_OUTPUT_PROJECTION,
}
_TEXT = {
  **_table(f"{_INPUT}.embeddings.weight", "adapter"),
  **_table(f"{_INPUT}.position_embeddings.weight", "adapter/positions"),
}
_BY_ARCHITECTURE = {
  "PerceiverForMaskedLM": {
    **_TEXT,
    **_table(f"{_DECODER}.{_TABLE}", "decoder/query"),
    "embedding_decoder.bias": Location("decoder", "bias"),
  },
  "PerceiverForSequenceClassification": {**_TEXT, **_CLASSIFIER},
  "PerceiverForImageClassificationLearned": {
    **_linear(f"{_INPUT}.convnet_1x1", "adapter/conv1x1", _CONV),
    **_table(
      f"{_INPUT}.position_embeddings.position_embeddings", "adapter/positions"
    ),
    **_linear(f"{_INPUT}.positions_projection", "adapter/project_positions"),
    **_CLASSIFIER,
  },
  "PerceiverForImageClassificationFourier": _CLASSIFIER,
  "PerceiverForImageClassificationConvProcessing": {
    f"{_INPUT}.convnet.conv.weight": Location(
      "adapter/stem/conv_0", "w", _CONV
    ),
    **_norm(_BATCH_NORM, _STEM, _CHANNELS),
    f"{_BATCH_NORM}.running_mean": Location(MEAN, "average", _CHANNELS),
    f"{_BATCH_NORM}.running_var": Location(VARIANCE, "average", _CHANNELS),
    f"{_BATCH_NORM}.num_batches_tracked": Location(MEAN, "counter"),
    **_CLASSIFIER,
  },
  "PerceiverForOpticalFlow": {
    **_linear(f"{_INPUT}.conv_after_patches", "adapter/image/patches"),
    **_OUTPUT_PROJECTION,
  },
  "PerceiverForMultimodalAutoencoding": {**_multimodal(), **_OUTPUT_PROJECTION},
}

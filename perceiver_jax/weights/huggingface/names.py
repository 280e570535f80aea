"""Tensor names and layouts of Hugging Face's Perceivers, and ours.

The tables go both ways: each tensor of theirs has one place in our trees, and
each array of ours is filled by one tensor, or by one for each layer of a stack.
PyTorch keeps linear weights as [out, in] and convolutions as
[out, in, height, width].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
  """How an array is kept there and here.

  Attributes:
    to_ours: Their array to ours.
    to_theirs: Our array to theirs.
  """

  to_ours: Callable[[np.ndarray], np.ndarray]
  to_theirs: Callable[[np.ndarray], np.ndarray]


_SAME = Layout(lambda x: x, lambda x: x)
_LINEAR = Layout(np.transpose, np.transpose)
_CONV = Layout(
  lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)
_CHANNELS = Layout(lambda x: x[None, None, None], lambda x: x[0, 0, 0])


class Place(NamedTuple):
  """Where a tensor of theirs is in our trees.

  Attributes:
    module: Of our parameters or state.
    leaf: Of that module.
    layout: What it takes to get there.
    layer: Index on the leading axis of a stack, or None.
  """

  module: str
  leaf: str
  layout: Layout = _SAME
  layer: int | None = None


Places = dict[str, Place]

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


def places(architecture: str, num_self_attends: int) -> Places:
  """Every tensor of a model.

  Args:
    architecture: Name of their class; a key of `ARCHITECTURES`.
    num_self_attends: Layers of the block.
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
    **_OWN[architecture],
  }


def _linear(
  theirs: str, ours: str, layout: Layout = _LINEAR, layer: int | None = None
) -> Places:
  return {
    f"{theirs}.weight": Place(ours, "w", layout, layer),
    f"{theirs}.bias": Place(ours, "b", _SAME, layer),
  }


def _norm(
  theirs: str, ours: str, layout: Layout = _SAME, layer: int | None = None
) -> Places:
  return {
    f"{theirs}.weight": Place(ours, "scale", layout, layer),
    f"{theirs}.bias": Place(ours, "offset", layout, layer),
  }


def _cross_attend(theirs: str, ours: str) -> Places:
  found = {}
  for there, here in _LINEARS.items():
    found |= _linear(f"{theirs}.{there}", f"{ours}/{here}")
  for there, here in _CROSS_NORMS.items():
    found |= _norm(f"{theirs}.{there}", f"{ours}/{here}")
  return found


def _self_attends(count: int) -> Places:
  ours, found = "encoder/block_0/layers/self_attend", {}
  for i in range(count):
    theirs = f"perceiver.encoder.self_attends.{i}"
    for there, here in _LINEARS.items():
      found |= _linear(f"{theirs}.{there}", f"{ours}/{here}", layer=i)
    for there, here in _SELF_NORMS.items():
      found |= _norm(f"{theirs}.{there}", f"{ours}/{here}", layer=i)
  return found


def _table(theirs: str, ours: str) -> Places:
  return {theirs: Place(ours, "embeddings")}


def _multimodal() -> Places:
  label = f"{_DECODER}.modalities.label.decoder.{_TABLE}"
  found = _table(label, "decoder/label_query")
  for m in _MODALITIES:
    found |= _table(f"{_INPUT}.padding.{m}", f"adapter/{m}_padding")
    found |= _table(f"{_INPUT}.mask.{m}", f"adapter/{m}_mask")
    found |= _table(f"{_DECODER}.padding.{m}", f"decoder/{m}_padding")
    found |= _linear(f"{_OUTPUT}.{m}.classifier", f"decoder/{m}_output")
  return found


_PROJECT = _linear(f"{_DECODER}.decoder.final_layer", "decoder/output")
_CLASSES = {
  **_table(f"{_DECODER}.decoder.{_TABLE}", "decoder/query"),
  **_PROJECT,
}
_TEXT = {
  **_table(f"{_INPUT}.embeddings.weight", "adapter"),
  **_table(f"{_INPUT}.position_embeddings.weight", "adapter/positions"),
}
_OWN = {
  "PerceiverForMaskedLM": {
    **_TEXT,
    **_table(f"{_DECODER}.{_TABLE}", "decoder/query"),
    "embedding_decoder.bias": Place("decoder", "bias"),
  },
  "PerceiverForSequenceClassification": {**_TEXT, **_CLASSES},
  "PerceiverForImageClassificationLearned": {
    **_linear(f"{_INPUT}.convnet_1x1", "adapter/conv1x1", _CONV),
    **_table(
      f"{_INPUT}.position_embeddings.position_embeddings", "adapter/positions"
    ),
    **_linear(f"{_INPUT}.positions_projection", "adapter/project_positions"),
    **_CLASSES,
  },
  "PerceiverForImageClassificationFourier": _CLASSES,
  "PerceiverForImageClassificationConvProcessing": {
    f"{_INPUT}.convnet.conv.weight": Place("adapter/stem/conv_0", "w", _CONV),
    **_norm(_BATCH_NORM, _STEM, _CHANNELS),
    f"{_BATCH_NORM}.running_mean": Place(MEAN, "average", _CHANNELS),
    f"{_BATCH_NORM}.running_var": Place(VARIANCE, "average", _CHANNELS),
    f"{_BATCH_NORM}.num_batches_tracked": Place(MEAN, "counter"),
    **_CLASSES,
  },
  "PerceiverForOpticalFlow": {
    **_linear(f"{_INPUT}.conv_after_patches", "adapter/image/patches"),
    **_PROJECT,
  },
  "PerceiverForMultimodalAutoencoding": {**_multimodal(), **_PROJECT},
}

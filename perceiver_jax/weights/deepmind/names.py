"""Conversion of DeepMind's parameter names to those of this project.

DeepMind's code names layers in the order of their creation (`linear`,
`linear_1`, ...) and keeps each self-attention layer separate. Here layers are
named by their role, and the self-attention layers of a block are stacked along
a leading axis.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from perceiver_jax.weights.deepmind import hierarchical_names

Tree = Mapping[str, Mapping[str, np.ndarray]]

_ATTENTION = {
  "attention/linear": "attention/query",
  "attention/linear_1": "attention/key",
  "attention/linear_2": "attention/value",
  "attention/linear_3": "attention/output",
  "mlp/linear": "mlp/hidden",
  "mlp/linear_1": "mlp/output",
  # The names in Perceiver AR's code.
  "dense/linear": "mlp/hidden",
  "dense/linear_1": "mlp/output",
}
_CROSS = _ATTENTION | {
  "layer_norm": "query_norm",
  "layer_norm_1": "input_norm",
  "layer_norm_2": "mlp_norm",
}
_SELF = _ATTENTION | {
  "layer_norm": "attention_norm",
  "layer_norm_1": "mlp_norm",
}


class _NameTable(NamedTuple):
  """Module names of one kind of released model.

  Attributes:
    identifying_prefix: Prefix of a module that only this kind of model has.
    encoder: Prefix of the encoder's modules.
    decoder: Prefix of the decoder's modules.
    others: All other modules: DeepMind's name to the name here.
  """

  identifying_prefix: str
  encoder: str
  decoder: str
  others: Mapping[str, str]


_POSITIONS = "~/trainable_position_encoding"
_NETWORK_INPUTS = "image_preprocessor/~_build_network_inputs/"
_STEM = "image_preprocessor/~/conv2_d_downsample/~/"
_CLASSIFIER = "classification_decoder/~/basic_decoder/"
_MODALITIES = ("audio", "image", "label")
_AR = "perceiver_ar/"
_MAX_DIMENSIONS = 8  # Of the positions of an autoregressive model.

_NAME_TABLES = (
  _NameTable(
    _AR,
    _AR,
    _AR + "decoder/",  # There are no such modules.
    {
      _AR + "~/embed": "adapter",
      _AR + "~/linear": "encoder/latents",
      _AR + "layer_norm": "decoder/norm",
      _AR + "~/logits": "decoder/logits",
    }
    | {
      f"{_AR}~/embed_{i + 1}": f"adapter/positions_{i}"
      for i in range(_MAX_DIMENSIONS)
    },
  ),
  _NameTable(
    "multimodal_decoder/",
    "encoder/",
    "multimodal_decoder/~/basic_decoder/",
    {
      _CLASSIFIER + _POSITIONS: "decoder/label_query",
      "audio_postprocessor/linear": "decoder/audio_output",
      "projection_postprocessor/linear": "decoder/image_output",
      "classification_postprocessor/linear": "decoder/label_output",
    }
    | {
      f"multimodal_decoder/~decoder_query/{m}_padding": f"decoder/{m}_padding"
      for m in _MODALITIES
    }
    | {
      f"multimodal_preprocessor/{m}_padding": f"adapter/{m}_padding"
      for m in _MODALITIES
    }
    | {
      f"multimodal_preprocessor/{m}_mask_token": f"adapter/{m}_mask"
      for m in _MODALITIES
    },
  ),
  _NameTable(
    "flow_decoder/",
    "perceiver_encoder/",
    "flow_decoder/~/basic_decoder/",
    {"image_preprocessor/patches_linear": "adapter/image/patches"},
  ),
  _NameTable(
    "embedding_decoder",
    "perceiver_encoder/",
    "basic_decoder/",
    {
      "embed": "adapter",
      "trainable_position_encoding": "adapter/positions",
      "basic_decoder/" + _POSITIONS: "decoder/query",
      "embedding_decoder": "decoder",
    },
  ),
  _NameTable(
    _CLASSIFIER,
    "perceiver_encoder/",
    _CLASSIFIER,
    {
      _CLASSIFIER + _POSITIONS: "decoder/query",
      "image_preprocessor/~/conv2_d": "adapter/conv1x1",
      _NETWORK_INPUTS + "position_encoding_projector/linear": (
        "adapter/project_positions"
      ),
      _NETWORK_INPUTS + "trainable_position_encoding": "adapter/positions",
      _STEM + "conv": "adapter/stem/conv_0",
      _STEM + "batchnorm": "adapter/stem/batch_norm_0",
      _STEM + "batchnorm/~/mean_ema": "adapter/stem/batch_norm_0/~/mean_ema",
      _STEM + "batchnorm/~/var_ema": "adapter/stem/batch_norm_0/~/var_ema",
    },
  ),
)


def convert(tree: Tree) -> dict[str, dict[str, np.ndarray]]:
  """Renames parameters or state and stacks self-attention layers.

  Args:
    tree: Module name to parameter name to array, as in DeepMind's Haiku code.

  Returns:
    The same arrays, each used exactly once, under this project's names.

  Raises:
    ValueError: A module is unknown, two have one name, or layers of a block are
      missing.
  """
  new_names = _new_names(tree)
  out: dict[str, dict[str, np.ndarray]] = {}
  layers: dict[str, dict[int, np.ndarray]] = {}
  for module, leaves in tree.items():
    index, name = new_names[module]
    for leaf, value in leaves.items():
      leaf = "embeddings" if leaf == "pos_embs" else leaf
      if index is None:
        _put(out, name, leaf, np.asarray(value))
      else:
        _put(layers, f"{name}/{leaf}", index, np.asarray(value))
  for key, arrays in layers.items():
    indices = sorted(arrays)
    if indices != list(range(len(arrays))):
      raise ValueError(f"{key}: layers {indices} leave gaps")
    name, _, leaf = key.rpartition("/")
    _put(out, name, leaf, np.stack([arrays[i] for i in indices]))
  return out


def _new_names(tree: Tree) -> dict[str, tuple[int | None, str]]:
  """Returns the index of a self-attention layer (or None) and the new name."""
  if hierarchical_names.is_hierarchical(tree):
    return hierarchical_names.names(tree)
  table = _name_table(tree)
  return {module: _rename(module, table) for module in tree}


def _name_table(tree: Tree) -> _NameTable:
  for table in _NAME_TABLES:
    if any(module.startswith(table.identifying_prefix) for module in tree):
      return table
  return _NAME_TABLES[-1]  # Only the convolutional classifier has state.


def _put(out: dict, name: str, leaf: str | int, value: np.ndarray) -> None:
  leaves = out.setdefault(name, {})
  if leaf in leaves:
    raise ValueError(f"two tensors are called {name}/{leaf}")
  leaves[leaf] = value


def _rename(module: str, table: _NameTable) -> tuple[int | None, str]:
  """Returns the index of a self-attention layer (or None), and the new name."""
  if module in table.others:
    return None, table.others[module]
  if module == table.encoder + _POSITIONS:
    return None, "encoder/latents"
  if module == table.decoder + "output":
    return None, "decoder/output"
  layer = re.escape(table.encoder) + r"~/self_attention(?:_(\d+))?/(.+)"
  if (match := re.fullmatch(layer, module)) and match[2] in _SELF:
    name = f"encoder/block_0/layers/self_attend/{_SELF[match[2]]}"
    return int(match[1] or 0), name
  for prefix, new_name in (
    (table.encoder + "~/", "encoder/cross_attend_0"),
    (table.decoder, "decoder/cross_attend"),
  ):
    rest = module.removeprefix(prefix + "cross_attention/")
    if rest != module and rest in _CROSS:
      return None, f"{new_name}/{_CROSS[rest]}"
  raise ValueError(f"unknown module {module!r}")

"""Parameter names of the authors' code to ours, for their six released models.

The authors name layers by order of creation (`linear`, `linear_1`, ...) and
keep each self-attend apart; here layers are named by their role and the
self-attends of a block are stacked along a leading axis.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Tree = Mapping[str, Mapping[str, np.ndarray]]

_ATTENTION = {
  "attention/linear": "attention/query",
  "attention/linear_1": "attention/key",
  "attention/linear_2": "attention/value",
  "attention/linear_3": "attention/output",
  "mlp/linear": "mlp/hidden",
  "mlp/linear_1": "mlp/output",
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


class _Family(NamedTuple):
  """How the authors name the modules of one kind of model.

  Attributes:
    sign: How a module's name starts that only this kind has.
    encoder: Prefix of the encoder's modules.
    decoder: Prefix of the decoder's.
    others: All other modules, theirs to ours.
  """

  sign: str
  encoder: str
  decoder: str
  others: Mapping[str, str]


_TABLE = "~/trainable_position_encoding"
_BUILD = "image_preprocessor/~_build_network_inputs/"
_STEM = "image_preprocessor/~/conv2_d_downsample/~/"
_CLASSES = "classification_decoder/~/basic_decoder/"
_MODALITIES = ("audio", "image", "label")

_FAMILIES = (
  _Family(
    "multimodal_decoder/",
    "encoder/",
    "multimodal_decoder/~/basic_decoder/",
    {
      _CLASSES + _TABLE: "decoder/label_query",
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
  _Family(
    "flow_decoder/",
    "perceiver_encoder/",
    "flow_decoder/~/basic_decoder/",
    {"image_preprocessor/patches_linear": "adapter/image/patches"},
  ),
  _Family(
    "embedding_decoder",
    "perceiver_encoder/",
    "basic_decoder/",
    {
      "embed": "adapter",
      "trainable_position_encoding": "adapter/positions",
      "basic_decoder/" + _TABLE: "decoder/query",
      "embedding_decoder": "decoder",
    },
  ),
  _Family(
    _CLASSES,
    "perceiver_encoder/",
    _CLASSES,
    {
      _CLASSES + _TABLE: "decoder/query",
      "image_preprocessor/~/conv2_d": "adapter/conv1x1",
      _BUILD + "position_encoding_projector/linear": (
        "adapter/project_positions"
      ),
      _BUILD + "trainable_position_encoding": "adapter/positions",
      _STEM + "conv": "adapter/stem/conv_0",
      _STEM + "batchnorm": "adapter/stem/batch_norm_0",
      _STEM + "batchnorm/~/mean_ema": "adapter/stem/batch_norm_0/~/mean_ema",
      _STEM + "batchnorm/~/var_ema": "adapter/stem/batch_norm_0/~/var_ema",
    },
  ),
)


def convert(tree: Tree) -> dict[str, dict[str, np.ndarray]]:
  """Renames parameters (or state) and stacks depth.

  Args:
    tree: Module name to parameter name to array, as the authors' Haiku code
      makes it.

  Returns:
    The same tensors, each used exactly once, under our names.

  Raises:
    ValueError: A module is unknown, or layers of a block are missing.
  """
  family = _family(tree)
  out: dict[str, dict[str, np.ndarray]] = {}
  layers: dict[tuple[str, str], dict[int, np.ndarray]] = {}
  for module, leaves in tree.items():
    index, name = _rename(module, family)
    for leaf, value in leaves.items():
      leaf = "embeddings" if leaf == "pos_embs" else leaf
      if index is None:
        _put(out, name, leaf, np.asarray(value))
      else:
        layers.setdefault((name, leaf), {})[index] = np.asarray(value)
  for (name, leaf), found in layers.items():
    if sorted(found) != list(range(len(found))):
      raise ValueError(f"{name}/{leaf}: layers {sorted(found)} leave gaps")
    _put(out, name, leaf, np.stack([found[i] for i in range(len(found))]))
  return out


def _family(tree: Tree) -> _Family:
  for family in _FAMILIES:
    if any(module.startswith(family.sign) for module in tree):
      return family
  return _FAMILIES[-1]  # State: only the convolutional classifier has any.


def _put(out: dict, name: str, leaf: str, value: np.ndarray) -> None:
  leaves = out.setdefault(name, {})
  if leaf in leaves:
    raise ValueError(f"two tensors are called {name}/{leaf}")
  leaves[leaf] = value


def _rename(module: str, family: _Family) -> tuple[int | None, str]:
  """Our module name, and the layer index of a self-attend."""
  if module in family.others:
    return None, family.others[module]
  if module == family.encoder + _TABLE:
    return None, "encoder/latents"
  if module == family.decoder + "output":
    return None, "decoder/output"
  layer = re.escape(family.encoder) + r"~/self_attention(?:_(\d+))?/(.+)"
  if (match := re.fullmatch(layer, module)) and match[2] in _SELF:
    name = f"encoder/block_0/layers/self_attend/{_SELF[match[2]]}"
    return int(match[1] or 0), name
  for theirs, ours in (
    (family.encoder + "~/", "encoder/cross_attend_0"),
    (family.decoder, "decoder/cross_attend"),
  ):
    rest = module.removeprefix(theirs + "cross_attention/")
    if rest != module and rest in _CROSS:
      return None, f"{ours}/{_CROSS[rest]}"
  raise ValueError(f"no module of ours corresponds to {module!r}")

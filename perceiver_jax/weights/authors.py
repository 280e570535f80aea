"""Parameter names of the authors' code to ours.

The authors name layers by order of creation (`linear`, `linear_1`, ...) and
keep each self-attend apart; here layers are named by their role and the
self-attends of a block are stacked along a leading axis.
"""

import re
from collections.abc import Mapping

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

_ENCODER = "perceiver_encoder/~/"
_DECODER = "classification_decoder/~/basic_decoder/"
_BUILD = "image_preprocessor/~_build_network_inputs/"
_STEM = "image_preprocessor/~/conv2_d_downsample/~/"

_MODULES = {
  _ENCODER + "trainable_position_encoding": "encoder/latents",
  _DECODER + "~/trainable_position_encoding": "decoder/query",
  _DECODER + "output": "decoder/output",
  "image_preprocessor/~/conv2_d": "adapter/conv1x1",
  _BUILD + "position_encoding_projector/linear": "adapter/project_positions",
  _BUILD + "trainable_position_encoding": "adapter/positions",
  _STEM + "conv": "adapter/stem/conv_0",
  _STEM + "batchnorm": "adapter/stem/batch_norm_0",
  _STEM + "batchnorm/~/mean_ema": "adapter/stem/batch_norm_0/~/mean_ema",
  _STEM + "batchnorm/~/var_ema": "adapter/stem/batch_norm_0/~/var_ema",
}
_LAYER = re.compile(re.escape(_ENCODER) + r"self_attention(?:_(\d+))?/(.+)")


def convert(tree: Tree) -> dict[str, dict[str, np.ndarray]]:
  """Renames an image classifier's parameters (or state) and stacks its depth.

  Args:
    tree: Module name to parameter name to array, as the authors' Haiku code
      makes it.

  Returns:
    The same tensors, each used exactly once, under our names.

  Raises:
    ValueError: A module is unknown, or layers of a block are missing.
  """
  out: dict[str, dict[str, np.ndarray]] = {}
  layers: dict[tuple[str, str], dict[int, np.ndarray]] = {}
  for module, leaves in tree.items():
    index, name = _rename(module)
    for leaf, value in leaves.items():
      leaf = "embeddings" if leaf == "pos_embs" else leaf
      if index is None:
        out.setdefault(name, {})[leaf] = np.asarray(value)
      else:
        layers.setdefault((name, leaf), {})[index] = np.asarray(value)
  for (name, leaf), found in layers.items():
    if sorted(found) != list(range(len(found))):
      raise ValueError(f"{name}/{leaf}: layers {sorted(found)} leave gaps")
    stacked = np.stack([found[i] for i in range(len(found))])
    out.setdefault(name, {})[leaf] = stacked
  return out


def _rename(module: str) -> tuple[int | None, str]:
  """Our module name, and the layer index of a self-attend."""
  if module in _MODULES:
    return None, _MODULES[module]
  if match := _LAYER.fullmatch(module):
    index, rest = int(match[1] or 0), match[2]
    if rest in _SELF:
      return index, f"encoder/block_0/layers/self_attend/{_SELF[rest]}"
  for theirs, ours in ((_ENCODER, "encoder"), (_DECODER, "decoder")):
    rest = module.removeprefix(theirs + "cross_attention/")
    if rest != module and rest in _CROSS:
      suffix = "_0" if ours == "encoder" else ""
      return None, f"{ours}/cross_attend{suffix}/{_CROSS[rest]}"
  raise ValueError(f"no module of ours corresponds to {module!r}")

"""Names of the parameters of Hierarchical Perceivers in DeepMind's code."""

import re
from collections.abc import Iterable

_CROSS = {
  "layer_norm": "query_norm",
  "layer_norm_1": "input_norm",
  "layer_norm_2": "mlp_norm",
}
_SELF = {"layer_norm": "attention_norm", "layer_norm_1": "mlp_norm"}
_SHARED = {
  "attention/query_linear": "attention/query",
  "attention/key_linear": "attention/key",
  "attention/value_linear": "attention/value",
  "attention/attention_output_linear": "attention/output",
  "dense/mlp_hidden_linear": "mlp/hidden",
  "dense/mlp_output_linear": "mlp/output",
}
_BLOCK = re.compile(r"perceiver/(?:perceiver_)?block_(\d+)/~/(.+)")
_SELF_ATTEND = re.compile(r"self_attend_id_(\d+)/(.+)")
_EMBEDDING = re.compile(r"perceiver/embedder(_\d+)?/~(embed|unembed)/\2_(.+)")
_POSITIONS = re.compile(r"perceiver/position_encoder(_\d+)?/pos_emb_mae_(.+)")
_PROJECTION = re.compile(
  r"perceiver/position_encoder/position_encoding_linear(?:_(\d+))?"
)
_HEAD = re.compile(
  r"perceiver/reconstruction_head(_1)?/hi_p_cross_attention/(.+)"
)


def is_hierarchical(modules: Iterable[str]) -> bool:
  """Returns whether modules are those of a Hierarchical Perceiver."""
  return any("/hi_p_cross_attention/" in module for module in modules)


def names(modules: Iterable[str]) -> dict[str, tuple[int | None, str]]:
  """Returns new names of modules.

  The first half of the blocks, and the bottleneck in their middle, belong to
  the encoder, and the others to the decoder.

  Args:
    modules: Names of all modules in DeepMind's code.

  Returns:
    The index of the self-attention layer (or None) and the new name, by module.

  Raises:
    ValueError: A module is unknown.
  """
  modules = tuple(modules)
  blocks = {int(m[1]) for m in map(_BLOCK.match, modules) if m}
  bottleneck = len(blocks) // 2
  # With labels, their head is made first.
  has_labels = any(m[1] for m in map(_HEAD.match, modules) if m)
  renamed = {}
  for module in modules:
    if match := _BLOCK.fullmatch(module):
      renamed[module] = _in_block(int(match[1]), match[2], bottleneck)
    elif (match := _HEAD.fullmatch(module)) and match[2] in _CROSS | _SHARED:
      is_label = has_labels and not match[1]
      head = "label_head" if is_label else "reconstruction_head"
      name = (_CROSS | _SHARED)[match[2]]
      renamed[module] = None, f"decoder/{head}/cross_attend/{name}"
    else:
      renamed[module] = None, _outside(module)
  if None in (name for _, name in renamed.values()):
    unknown = next(key for key, (_, name) in renamed.items() if name is None)
    raise ValueError(f"unknown module {unknown!r}")
  return renamed


def _in_block(
  i: int, rest: str, bottleneck: int
) -> tuple[int | None, str | None]:
  """Returns the name of a module in the i-th of all blocks."""
  block = f"encoder/block_{i}"
  if i > bottleneck:
    block = f"decoder/block_{i - bottleneck - 1}"
  if (match := _SELF_ATTEND.fullmatch(rest)) and match[2] in _SELF | _SHARED:
    name = (_SELF | _SHARED)[match[2]]
    return int(match[1]), f"{block}/self_attends/layers/self_attend/{name}"
  cross = {
    f"hi_p_cross_attention/{name}": f"cross_attend/{new}"
    for name, new in (_CROSS | _SHARED).items()
  } | {
    "hi_p_cross_attention/query_inputs": "latents",
    "hi_p_cross_attention/pre_attention_residual_linear": "skip",
  }
  return None, f"{block}/{cross[rest]}" if rest in cross else None


def _outside(module: str) -> str | None:
  """Returns the name of a module outside blocks and heads, or None."""
  if match := _EMBEDDING.fullmatch(module):
    if match[2] == "unembed":
      return f"decoder/output_{match[3]}"
    return f"{'encoder' if match[1] else 'adapter'}/embed_{match[3]}"
  if match := _POSITIONS.fullmatch(module):
    return f"{'encoder' if match[1] else 'adapter'}/positions_{match[2]}"
  if match := _PROJECTION.fullmatch(module):
    return f"adapter/project_positions_{match[1] or 0}"
  return None

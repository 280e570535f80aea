"""Specs of ours to and from the config.json of Hugging Face's Perceivers."""

import inspect
import json
import pathlib
from collections.abc import (
  Iterator,
  Mapping,
)
from typing import Any

from perceiver_jax.errors import UserError
from perceiver_jax.models import (
  decoders,
  zoo,
)
from perceiver_jax.models.encoder import EncoderConfig
from perceiver_jax.models.modalities import flow, multimodal, text
from perceiver_jax.weights.huggingface import encoder as encoders
from perceiver_jax.weights.huggingface.architectures import (
  ARCHITECTURES,
  architecture_of,
)
from perceiver_jax.weights.huggingface.encoder import (
  Config,
  Spec,
)

_DECODERS = {
  "query": decoders.ClassQueryDecoder,
  "masked_lm": text.MaskedLmDecoder,
  "flow": flow.FlowDecoder,
  "multimodal": multimodal.MultimodalDecoder,
}
# Leaves that change how a model starts, trains or uses memory, and those that
# decide between several cross-attends, of which theirs have one.
_WITHOUT_EFFECT = {
  "latent_init_scale",
  "position_init_scale",
  "zero_init",
  "remat",
  "cross_replica_axis",
  "cross_attend_placement",
  "share_cross_attends",
  # Changes outputs at padding alone, which nothing reads.
  "use_query_mask",
  # The order of inputs that carry their positions changes nothing.
  "permutation_seed",
}


def read(path: pathlib.Path) -> tuple[str, dict[str, Any]]:
  """Their class, and every leaf that it reads.

  Raises:
    UserError: The file is unreadable, is no Perceiver's or not one of those
      that are supported, or a leaf has an impossible value.
  """
  try:
    raw = json.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from error
  except (ValueError, RecursionError) as error:
    raise UserError(f"{path} is not JSON: {error}") from error
  if not isinstance(raw, dict):
    raise UserError(f"{path} does not hold the settings of a model")
  architecture = _architecture(path, raw)
  if isinstance(labels := raw.get("id2label"), dict):
    raw["num_labels"] = len(labels)
  config = {}
  for key in ARCHITECTURES[architecture].keys:
    default = encoders.DEFAULTS[key]
    value = raw.get(key, default)
    config[key] = _checked(path, key, value, default)
  return architecture, config


def _architecture(path: pathlib.Path, raw: Mapping[str, Any]) -> str:
  named = raw.get("architectures")
  named = named if isinstance(named, list) else []
  for name in named:
    if isinstance(name, str) and name in ARCHITECTURES:
      return name
  raise UserError(
    f"{path} is of {', '.join(map(repr, named)) or 'no named class'}; supported"
    f" are {', '.join(ARCHITECTURES)}"
  )


def _checked(path: pathlib.Path, key: str, value: Any, default: Any) -> Any:
  """The value, if transformers could use it."""
  size = len(default) if isinstance(default, tuple) else 0
  if key == "hidden_act":
    good = isinstance(value, str) and value in encoders.GELUS
    want = f"one of {', '.join(encoders.GELUS)}"
  elif size:
    good = isinstance(value, list | tuple) and len(value) == size
    good = good and all(map(_is_count, value))
    want = f"{size} whole numbers"
  elif isinstance(default, bool | str):
    good = type(value) is type(default)
    want = "true or false" if isinstance(default, bool) else "a string"
  else:
    good = _is_count(value) or value is default
    want = "a whole number" + (" or null" if default is None else "")
  if not good:
    raise UserError(f"{path}: {key} is {value!r} and must be {want}")
  return tuple(value) if size else value


def _is_count(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def write(path: pathlib.Path, architecture: str, config: Config) -> None:
  """Writes what `read` reads, with names for the labels."""
  leaves = dict(config)
  if (count := leaves.pop("num_labels", None)) is not None:
    leaves["id2label"] = {str(i): f"LABEL_{i}" for i in range(count)}
    leaves["label2id"] = {f"LABEL_{i}": i for i in range(count)}
  leaves |= {
    "architectures": [architecture],
    "model_type": "perceiver",
    "attention_probs_dropout_prob": 0.0,
  }
  contents = json.dumps(leaves, indent=2, sort_keys=True) + "\n"
  path.write_text(contents, encoding="utf-8")


def spec_of(architecture: str, config: Config) -> dict[str, Any]:
  """The spec of their class with that configuration."""
  sections = ARCHITECTURES[architecture].sections(config)
  return {**sections, "encoder": encoders.encoder_of(config)}


def config_of(spec: Spec, num_positions: int) -> tuple[str, dict[str, Any]]:
  """Their class that computes a spec, and its configuration.

  Args:
    spec: A spec of ours.
    num_positions: Rows of the adapter's table of positions, 0 without one.

  Raises:
    UserError: None of their classes computes it.
  """
  given = _complete(spec)
  architecture = architecture_of(given)
  if architecture is None:
    raise UserError(
      f"transformers has no class for adapter {given['adapter']['kind']!r}"
      f" with decoder {given['decoder']['kind']!r}; supported are"
      f" {', '.join(ARCHITECTURES)}"
    )
  config = encoders.encoder_config(given)
  config |= ARCHITECTURES[architecture].own_config(given, num_positions)
  _check_same(architecture, _complete(spec_of(architecture, config)), given)
  _check_widths(given["encoder"])
  return architecture, config


def _check_same(architecture: str, theirs: Spec, ours: Spec) -> None:
  left, right = dict(_leaves(theirs)), dict(_leaves(ours))
  wrong = [
    f"{name} {left.get(name)!r} (the spec: {right.get(name)!r})"
    for name in {**left, **right}
    if left.get(name) != right.get(name)
  ]
  if wrong:
    raise UserError(
      f"{architecture} of transformers computes another model: it has"
      f" {', '.join(wrong)}; change these leaves of the spec and train so, or"
      " keep the model in our own format"
    )


def _check_widths(encoder: Spec) -> None:
  """What their encoder needs beyond what ours does."""
  channels = encoder["num_latent_channels"]
  v_channels = encoder["v_channels"] or encoder["qk_channels"] or channels
  if encoder["num_self_attends_per_block"] and v_channels != channels:
    raise UserError(
      f"values of {v_channels} channels in self-attends of {channels}:"
      " transformers needs them as wide; set encoder.v_channels"
    )
  for name in ("num_self_attend_heads", "num_cross_attend_heads"):
    if channels % encoder[name]:
      raise UserError(
        f"encoder.{name} {encoder[name]} does not divide {channels} latent"
        " channels, which transformers requires"
      )


def _complete(spec: Spec) -> dict[str, Any]:
  """A spec with every default filled in."""
  encoder = EncoderConfig()._asdict() | dict(spec["encoder"])
  if encoder["num_blocks"] == 1:
    encoder["share_blocks"] = True
  decoder = dict(spec["decoder"])
  if cls := _DECODERS.get(decoder["kind"]):
    residual = decoder["kind"] in ("query", "masked_lm")
    decoder = _defaults(cls) | {"use_query_residual": residual} | decoder
  whole = {
    "adapter": _complete_adapter(spec["adapter"]),
    "encoder": encoder,
    "decoder": decoder,
  }
  for section in (encoder, decoder):
    if section.get("qk_channels"):
      section["shape_for_attn"] = "kv"  # Only a default of that width.
  if decoder["kind"] == "query":
    whole["num_classes"] = spec["num_classes"]
  return whole


def _complete_adapter(section: Mapping[str, Any]) -> dict[str, Any]:
  adapter = {"kind": "image", **section}
  if adapter["kind"] == "multimodal":
    parts = {
      name: _complete_adapter(part)
      for name, part in adapter["modalities"].items()
    }
    defaults = _defaults(multimodal.MultimodalAdapter)
    return defaults | adapter | {"modalities": parts}
  if cls := zoo.ADAPTERS.get(adapter["kind"]):
    return _defaults(cls) | adapter
  return adapter


def _defaults(cls: type) -> dict[str, Any]:
  """Arguments of a module that have one, its base classes' included."""
  found = {}
  for base in reversed(cls.__mro__):
    for name, parameter in inspect.signature(base.__init__).parameters.items():
      if parameter.default is not parameter.empty and name != "name":
        found[name] = parameter.default
  return found


def _leaves(spec: Spec, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Dotted names and values of what a spec computes."""
  for name, value in spec.items():
    if hasattr(value, "items"):
      yield from _leaves(value, f"{prefix}{name}.")
    elif name not in _WITHOUT_EFFECT:
      yield (
        f"{prefix}{name}",
        tuple(value) if isinstance(value, list) else value,
      )

"""Conversion between specs and the config.json of Hugging Face's Perceivers."""

import inspect
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from perceiver_jax import files
from perceiver_jax.errors import UserError
from perceiver_jax.models import decoders, zoo
from perceiver_jax.models.encoder import EncoderConfig
from perceiver_jax.models.modalities import flow, multimodal, text
from perceiver_jax.weights.huggingface import encoder as encoder_config
from perceiver_jax.weights.huggingface.architectures import (
  ARCHITECTURES,
  class_name,
)
from perceiver_jax.weights.huggingface.encoder import Config, Spec

_DECODERS = {
  "classification": decoders.ClassificationDecoder,
  "masked_lm": text.MaskedLmDecoder,
  "flow": flow.FlowDecoder,
  "multimodal": multimodal.MultimodalDecoder,
}
# Leaves that affect only initialization, training or memory, and those that
# place several cross-attentions, while transformers has only one.
_WITHOUT_EFFECT = {
  "latent_init_scale",
  "position_init_scale",
  "embedding_init_scale",
  "query_init_scale",
  "zero_init",
  "remat",
  "cross_replica_axis",
  "cross_attend_placement",
  "share_cross_attends",
  # It changes outputs only at padding, where they are not used.
  "use_query_mask",
  # Permuting inputs together with their positions changes nothing.
  "permutation_seed",
}
# A run's config.json has no architectures either.
_RUN_ADVICE = (
  "; for a run of this project, give its model.safetensors, not the folder"
)


def read(path: pathlib.Path) -> tuple[str, dict[str, Any]]:
  """Reads the name of the class and all leaves of the configuration it uses.

  Raises:
    UserError: The file can't be read, is not of a supported class, or a leaf
      has an impossible value.
  """
  try:
    raw = files.read_json(path)
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from error
  except ValueError as error:
    raise UserError(f"{path} is not JSON: {error}") from error
  if not isinstance(raw, dict):
    raise UserError(f"{path} does not hold a model configuration")
  architecture = _architecture(path, raw)
  if isinstance(labels := raw.get("id2label"), dict):
    raw["num_labels"] = len(labels)
  config = {}
  for key in ARCHITECTURES[architecture].keys:
    default = encoder_config.DEFAULTS[key]
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
    f" are {', '.join(ARCHITECTURES)}{'' if named else _RUN_ADVICE}"
  )


def _checked(path: pathlib.Path, key: str, value: Any, default: Any) -> Any:
  """Returns the value of a leaf, if transformers accepts it."""
  size = len(default) if isinstance(default, tuple) else 0
  if key == "hidden_act":
    good = isinstance(value, str) and value in encoder_config.GELUS
    want = f"one of {', '.join(encoder_config.GELUS)}"
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
  """Writes a configuration, with names for the labels."""
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
  files.write_text(path, contents)


def spec_from_config(architecture: str, config: Config) -> dict[str, Any]:
  """Returns the spec of a class with a configuration."""
  sections = ARCHITECTURES[architecture].spec_from_config(config)
  return {**sections, "encoder": encoder_config.spec_from_config(config)}


def config_from_spec(
  spec: Spec, num_positions: int
) -> tuple[str, dict[str, Any]]:
  """Returns the class that computes the model of a spec, and its configuration.

  Args:
    spec: The spec.
    num_positions: Rows of the adapter's position table; 0 without one.

  Raises:
    UserError: No class of transformers computes it.
  """
  given = _complete(spec)
  architecture = class_name(given)
  if architecture is None:
    raise UserError(
      f"transformers has no class for adapter {given['adapter']['kind']!r}"
      f" with decoder {given['decoder']['kind']!r}; supported are"
      f" {', '.join(ARCHITECTURES)}"
    )
  config = encoder_config.config_from_spec(given)
  config |= ARCHITECTURES[architecture].config_from_spec(given, num_positions)
  _check_same(
    architecture, _complete(spec_from_config(architecture, config)), given
  )
  _check_widths(given["encoder"])
  return architecture, config


def _check_same(architecture: str, converted: Spec, given: Spec) -> None:
  """Checks that the configuration converts back to the same spec."""
  left, right = dict(_leaves(converted)), dict(_leaves(given))
  differences = [
    f"{name} {left.get(name)!r} (the spec: {right.get(name)!r})"
    for name in {**left, **right}
    if left.get(name) != right.get(name)
  ]
  if differences:
    raise UserError(
      f"{architecture} of transformers computes another model: it has"
      f" {', '.join(differences)}; train with these values, or save the model"
      " in this project's own format"
    )


def _check_widths(encoder: Spec) -> None:
  """Checks the widths that only transformers restricts."""
  channels = encoder["num_latent_channels"]
  v_channels = encoder["v_channels"] or encoder["qk_channels"] or channels
  if encoder["num_self_attends_per_block"] and v_channels != channels:
    raise UserError(
      f"self-attention has values of {v_channels} channels and latents of"
      f" {channels}; transformers requires the same; set encoder.v_channels"
    )
  for name in ("num_self_attend_heads", "num_cross_attend_heads"):
    if channels % encoder[name]:
      raise UserError(
        f"encoder.{name} {encoder[name]} does not divide {channels} latent"
        " channels, which transformers requires"
      )


def _complete(spec: Spec) -> dict[str, Any]:
  """Fills in the defaults of a spec."""
  encoder = EncoderConfig()._asdict() | dict(spec["encoder"])
  if encoder["num_blocks"] == 1:
    encoder["share_blocks"] = True
  decoder = dict(spec["decoder"])
  if cls := _DECODERS.get(decoder["kind"]):
    residual = decoder["kind"] in ("classification", "masked_lm")
    decoder = _defaults(cls) | {"use_query_residual": residual} | decoder
  complete = {
    "adapter": _complete_adapter(spec["adapter"]),
    "encoder": encoder,
    "decoder": decoder,
  }
  for section in (encoder, decoder):
    if section.get("qk_channels"):
      section["shape_for_attn"] = "kv"  # Only selects the default width.
  if decoder["kind"] == "classification":
    complete["num_classes"] = spec["num_classes"]
  return complete


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
  """Returns the default arguments of a module and its base classes."""
  defaults = {}
  for base in reversed(cls.__mro__):
    for name, parameter in inspect.signature(base.__init__).parameters.items():
      if parameter.default is not parameter.empty and name != "name":
        defaults[name] = parameter.default
  return defaults


def _leaves(spec: Spec, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Yields dotted names and values of the leaves that affect outputs."""
  for name, value in spec.items():
    if hasattr(value, "items"):
      yield from _leaves(value, f"{prefix}{name}.")
    elif name not in _WITHOUT_EFFECT:
      yield (
        f"{prefix}{name}",
        tuple(value) if isinstance(value, list) else value,
      )

"""Checks of the spec in a file of weights, before its model is built.

A spec of a few characters can describe a model that takes hours to build. The
leaves and types that a section may have are those of the class it configures.
"""

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perceiver_jax import limits
from perceiver_jax.errors import UserError
from perceiver_jax.models import encoder, zoo
from perceiver_jax.models.modalities import multimodal

_SECTIONS = ("adapter", "encoder", "decoder")
# Arguments that `zoo.build` adds, and those that are sections of the spec.
_NOT_LEAVES = {"name", "execution", "adapter", "adapters", "num_classes"}
_NOT_LEAVES |= {"decoder", "sizes", "outputs", "args", "kwargs", "return"}
_ENCODERS = zoo.ENCODERS | {"perceiver": encoder.EncoderConfig}
# Leaves for which building or tracing a model takes a step each.
_DEPTHS = {
  "num_blocks",
  "num_cross_attends",
  "num_self_attends_per_block",
  "num_layers",
  "num_self_attends",
  "num_position_mlp",
}
# Leaves by which something is divided.
_DIVISORS = {
  "num_heads",
  "num_cross_attend_heads",
  "num_self_attend_heads",
  "num_groups",
  "spatial_downsample",
  "temporal_downsample",
  "samples_per_patch",
  "patch_size",
  "num_blocks",
  "num_cross_attends",
}
_FACTOR = "self_attend_widening_factor"
_MAX_SEED = 2**32 - 1
_MAX_DIMENSIONS = 8  # Those of a grid; a video has three.


def check_spec(spec: Any, path: Any) -> None:
  """Checks the keys, types and ranges of a spec.

  Args:
    spec: What a file holds in place of a spec.
    path: Path of the file, for the error.

  Raises:
    UserError: A leaf is missing or unknown, or its value is of another type, or
      out of range or so large that `zoo.build` would take too long; the message
      names the leaf. Names of choices, such as `encoder.gelu`, and values that
      have to fit each other, such as heads and channels, are not checked.
  """
  try:
    _check_section(spec, "the model", _SECTIONS, ("num_classes",))
    _check_adapter(spec["adapter"], "adapter")
    _check_kind(spec["encoder"], "encoder", _ENCODERS, "perceiver")
    _check_decoder(spec["decoder"])
    is_classifier = spec["decoder"]["kind"] in zoo.CLASSIFIERS
    if is_classifier != ("num_classes" in spec):
      state = "missing" if is_classifier else "unknown"
      raise ValueError(f"num_classes is {state}")
    if is_classifier:
      _check_leaf("num_classes", spec["num_classes"], int)
  except ValueError as error:
    raise UserError(
      f"{path} does not describe a valid model: {error}; the file is damaged,"
      " or of another version of perceiver_jax"
    ) from error


def check_size(spec: Mapping[str, Any], num_elements: int, path: Any) -> None:
  """Compares the model of a spec with the number of values in its file.

  The spec alone, without inputs, tells the sizes of the latents and the blocks
  of self-attends, which hold most parameters of a model.

  Args:
    spec: A spec that `check_spec` accepts.
    num_elements: Elements of all arrays in the file.
    path: Path of the file, for the error.

  Raises:
    UserError: The model has more parameters.
  """
  count = min_parameters(spec)
  if count > num_elements:
    raise UserError(
      f"{path} describes a model of at least {count:,} parameters and holds"
      f" {num_elements:,} values; the file is damaged or incomplete"
    )


def check_arrays(
  spec: Mapping[str, Any],
  params: Mapping[str, Mapping[str, np.ndarray]],
  path: Any,
) -> None:
  """Compares the sizes that a spec tells with the arrays of its file.

  Args:
    spec: A spec that `check_spec` accepts.
    params: The parameters in the file.
    path: Path of the file, for the error.

  Raises:
    UserError: The latents or the number of classes differ, or `check_size`.
  """
  arrays = [array for leaves in params.values() for array in leaves.values()]
  check_size(spec, sum(array.size for array in arrays), path)
  expected = {}
  if isinstance(sizes := _encoder(spec), encoder.EncoderConfig):
    expected["encoder/latents", "embeddings"] = (
      sizes.num_latents,
      sizes.num_latent_channels,
    )
  if spec["decoder"]["kind"] in zoo.CLASSIFIERS:
    expected["decoder/output", "b"] = (spec["num_classes"],)
  for (module, name), shape in expected.items():
    array = params.get(module, {}).get(name)
    if array is not None and array.shape != shape:
      raise UserError(
        f"{path} holds {module}/{name} of shape {array.shape}, and its spec"
        f" makes it {shape}; the file is damaged"
      )


def min_parameters(spec: Mapping[str, Any]) -> int:
  """Counts the parameters of the latents and the blocks of self-attends.

  The channels of other encoders than the Perceiver are not counted, since those
  of a Transformer are the channels of its inputs, which a spec does not tell.
  """
  sizes = _encoder(spec)
  if spec["encoder"].get("kind") == "hierarchical":
    return _group_blocks(sizes)
  if not isinstance(sizes, encoder.EncoderConfig):
    factor = sizes.get("widening_factor", 4)
    depth = sizes.get("num_layers", sizes.get("num_self_attends", 0))
    return depth * _self_attend(1, 0, 0, factor)
  channels = sizes.num_latent_channels
  layer = _self_attend(
    channels,
    sizes.qk_channels,
    sizes.v_channels,
    sizes.self_attend_widening_factor,
  )
  blocks = 1 if sizes.share_blocks else sizes.num_blocks
  layers = blocks * sizes.num_self_attends_per_block
  return sizes.num_latents * channels + layers * layer


def _group_blocks(sizes: Mapping[str, Any]) -> int:
  """Counts the latents and self-attends of a `HierarchicalEncoder`."""
  defaults = inspect.signature(zoo.ENCODERS["hierarchical"]).parameters
  size = lambda leaf: sizes.get(leaf, defaults[leaf].default)
  groups = size("num_groups")
  leaves = ("num_latents", "num_latent_channels", "num_self_attends")
  values = [
    [value] * len(groups) if isinstance(value, int) else value
    for value in (*map(size, leaves), sizes.get(_FACTOR, 4))
  ]
  return sum(
    groups * latents * channels + depth * _self_attend(channels, 0, 0, factor)
    for groups, latents, channels, depth, factor in zip(
      groups, *values, strict=False
    )
  )


def _self_attend(channels: int, qk: int, v: int, widening_factor: int) -> int:
  """Counts the parameters of `blocks.SelfAttention`."""
  qk = qk or channels
  v = v or qk
  hidden = widening_factor * channels
  projections = 2 * (channels + 1) * qk + (channels + 1) * v
  mlp = (channels + 1) * hidden + (hidden + 1) * channels
  return 4 * channels + projections + (v + 1) * channels + mlp


def _encoder(spec: Mapping[str, Any]) -> Any:
  """Returns an `EncoderConfig`, or the leaves of another encoder."""
  leaves = dict(spec["encoder"])
  if leaves.pop("kind", "perceiver") == "perceiver":
    return encoder.EncoderConfig(**leaves)
  return leaves


def _check_adapter(section: Any, name: str) -> None:
  _check_mapping(section, name)
  if section.get("kind") != "multimodal":
    _check_kind(section, name, zoo.ADAPTERS, "image")
    return
  _check_kind(section, name, zoo.ADAPTERS, "", ("modalities",))
  parts = section.get("modalities")
  _check_mapping(parts, f"{name}.modalities")
  for modality, part in parts.items():
    part_name = f"{name}.modalities.{modality}"
    _check_mapping(part, part_name)
    if part.get("kind") == "multimodal":
      raise ValueError(f"{part_name} holds several modalities itself")
    _check_adapter(part, part_name)


def _check_decoder(section: Any) -> None:
  _check_kind(section, "decoder", zoo.DECODERS, "", ("outputs",))
  if section["kind"] not in ("multimodal", "multitask_classification"):
    if "outputs" in section:
      raise ValueError("decoder.outputs has no meaning for this kind")
    return
  _check_mapping(section.get("outputs"), "decoder.outputs")
  for name, output in section["outputs"].items():
    name = f"decoder.outputs.{name}"
    if section["kind"] == "multitask_classification":
      _check_leaf(name, output, int)
      continue
    _check_mapping(output, name)
    fields = multimodal.GridOutput if "shape" in output else None
    leaves = typing.get_type_hints(fields or multimodal.LabelOutput)
    _check_section(output, name, leaves, ())
    for leaf, value in output.items():
      _check_leaf(f"{name}.{leaf}", value, leaves[leaf])


def _check_kind(
  section: Any,
  name: str,
  kinds: Mapping[str, Any],
  default: str,
  parts: Sequence[str] = (),
) -> None:
  """Checks the leaves of a section of some kind, but not its other parts."""
  _check_mapping(section, name)
  kind = section.get("kind", default)
  if not isinstance(kind, str) or kind not in kinds:
    raise ValueError(
      f"{name}.kind is {kind!r}, which is unknown; known are {', '.join(kinds)}"
    )
  leaves = _leaves(kinds[kind])
  _check_section(section, name, (), ("kind", *parts, *leaves))
  for leaf, annotation in leaves.items():
    if leaf in section:
      _check_leaf(f"{name}.{leaf}", section[leaf], annotation)


def _leaves(cls: type) -> dict[str, Any]:
  """Returns the arguments of a class and its base classes with their types."""
  if issubclass(cls, tuple):
    return typing.get_type_hints(cls)
  hints = {}
  for base in reversed(cls.__mro__):
    if inspect.isfunction(vars(base).get("__init__")):
      hints |= typing.get_type_hints(base.__init__)
  return {k: v for k, v in hints.items() if k not in _NOT_LEAVES}


def _check_mapping(section: Any, name: str) -> None:
  if not isinstance(section, Mapping):
    kind = type(section).__name__
    raise ValueError(f"{name} is of type {kind} and not a section")


def _check_section(
  section: Any,
  name: str,
  required: typing.Iterable[str],
  optional: Sequence[str],
) -> None:
  _check_mapping(section, name)
  missing = [part for part in required if part not in section]
  if missing:
    raise ValueError(f"{name} has no {', '.join(missing)}")
  known = {*required, *optional}
  for key in section:
    if key not in known:
      raise ValueError(f"{name} has an unknown leaf {key!r}")


def _check_leaf(name: str, value: Any, annotation: Any) -> None:
  """Checks the type of a value and, of a whole number, its range."""
  options = (
    typing.get_args(annotation)
    if isinstance(annotation, types.UnionType)
    else (annotation,)
  )
  if not any(_is_of(value, option) for option in options):
    raise ValueError(f"{name} is {value!r}, which is of another type")
  leaf = name.rpartition(".")[2]
  low, high = int(leaf in _DIVISORS), limits.MAX_SIZE
  if leaf in _DEPTHS:
    high = limits.MAX_DEPTH
  elif leaf.endswith("seed"):
    high = _MAX_SEED
  for number in value if isinstance(value, list | tuple) else [value]:
    if isinstance(number, int) and not low <= number <= high:
      raise ValueError(
        f"{name} is {number} and must be a number from {low} to {high:,}"
      )


def _is_of(value: Any, annotation: Any) -> bool:
  if annotation is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if annotation is float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # Also False for NaN; `math.isfinite` would convert a huge integer.
    return number and abs(value) <= limits.MAX_SIZE
  if annotation in (bool, str):
    return isinstance(value, annotation)
  return (
    isinstance(value, list | tuple)
    and len(value) <= _MAX_DIMENSIONS
    and all(_is_of(item, _item_type(annotation)) for item in value)
  )


def _item_type(annotation: Any) -> Any:
  """Returns the type of the items of a sequence, a number unless it is text."""
  return str if typing.get_args(annotation) == (str,) else int

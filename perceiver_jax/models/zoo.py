"""Builds any model of the papers from a spec, at any size.

A spec is a plain mapping with sections `adapter`, `encoder` and `decoder`, so
that config files can hold and change it. The specs of the papers' models are in
`published`.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax

from perceiver_jax.models import decoders, perceiver
from perceiver_jax.models import encoder as encoder_lib
from perceiver_jax.models.architectures import (
  hierarchical_perceiver,
  perceiver_ar,
  pointnet,
  resampler,
  transformer,
)
from perceiver_jax.models.modalities import (
  arrays,
  audio,
  entities,
  flow,
  groups,
  image,
  multimodal,
  multitask_classification,
  points,
  text,
)
from perceiver_jax.models.ops.execution import AUTO, Execution
from perceiver_jax.models.published import MODELS

ADAPTERS: dict[str, Callable[..., Any]] = {
  "image": image.ImageAdapter,
  "audio": audio.AudioAdapter,
  "text": text.TextAdapter,
  "tokens": perceiver_ar.TokensAdapter,
  "flow": flow.FlowAdapter,
  "points": points.PointsAdapter,
  "entities": entities.EntitiesAdapter,
  "entity_features": entities.EntityFeaturesAdapter,
  "features": resampler.FeaturesAdapter,
  "arrays": arrays.ArraysAdapter,
  "grouped": groups.GroupedAdapter,
  "label": multimodal.LabelAdapter,
  "multimodal": multimodal.MultimodalAdapter,
}
ENCODERS: dict[str, Callable[..., Any]] = {
  "perceiver": lambda name, execution, **sizes: encoder_lib.PerceiverEncoder(
    encoder_lib.EncoderConfig(**sizes), execution, name=name
  ),
  "perceiver_ar": perceiver_ar.PerceiverAREncoder,
  "hierarchical": hierarchical_perceiver.HierarchicalEncoder,
  "transformer": transformer.TransformerEncoder,
  "pointnet": pointnet.PointNetEncoder,
  "resampler": resampler.Resampler,
  "mean_pooling": resampler.MeanPooling,
}
DECODERS: dict[str, Callable[..., Any]] = {
  "classification": decoders.ClassificationDecoder,
  "average_and_project": decoders.AverageAndProjectDecoder,
  "pointnet": pointnet.PointNetDecoder,
  "masked_lm": text.MaskedLmDecoder,
  "token": text.TokenDecoder,
  "next_token": perceiver_ar.NextTokenDecoder,
  "hierarchical": hierarchical_perceiver.HierarchicalDecoder,
  "bottleneck_classification": (
    hierarchical_perceiver.BottleneckClassificationDecoder
  ),
  "multitask_classification": (
    multitask_classification.MultitaskClassificationDecoder
  ),
  "flow": flow.FlowDecoder,
  "multimodal": multimodal.MultimodalDecoder,
  "entities": entities.EntitiesDecoder,
  "transformer_entities": entities.TransformerEntitiesDecoder,
  "latents": resampler.LatentsDecoder,
  "arrays": arrays.ArraysDecoder,
}

_SECTIONS = ("adapter", "encoder", "decoder")
# Kinds of decoders that need `num_classes`.
CLASSIFIERS = (
  "classification",
  "bottleneck_classification",
  "average_and_project",
  "pointnet",
)


def get_spec(name: str, **overrides: Any) -> dict[str, Any]:
  """Returns a copy of the spec of a published model, with changes if given.

  Args:
    name: A name in `MODELS`.
    **overrides: New values, such as `num_classes=10`. A mapping changes only
      the leaves that it names, such as `encoder={"num_latents": 64}`; one with
      a `kind` replaces the section.

  Raises:
    ValueError: `name` is not in `MODELS`, or an override is unknown.
  """
  if name not in MODELS:
    raise ValueError(f"model {name!r}: choose one of {', '.join(MODELS)}")
  spec = _merge(copy.deepcopy(dict(MODELS[name].spec)), overrides)
  _check_sections(spec)
  return spec


def _merge(
  section: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
  merged = dict(section)
  for name, value in overrides.items():
    if isinstance(value, Mapping) and "kind" not in value:
      value = _merge(merged.get(name, {}), value)
    merged[name] = copy.deepcopy(value)
  return merged


def _check_sections(model: Mapping[str, Any]) -> None:
  """Checks the names of a spec's sections."""
  known = (*_SECTIONS, "num_classes")
  wrong = [f"unknown {name}" for name in model if name not in known]
  wrong += [f"missing {name}" for name in _SECTIONS if name not in model]
  if wrong:
    raise ValueError(
      f"sections of the model: {', '.join(wrong)}; give"
      f" {', '.join(_SECTIONS)} and, of classifiers, num_classes"
    )


def build(
  model: Mapping[str, Any], execution: Execution = AUTO
) -> perceiver.Perceiver:
  """Builds a model from a spec, inside a Haiku transform.

  Args:
    model: A mapping like those of `get_spec`: `adapter` (its `kind`, "image" if
      not given, and arguments), `encoder` (its `kind`, "perceiver" if not
      given, and fields of `EncoderConfig` or arguments), `decoder` (its `kind`
      and arguments) and, for classifiers, `num_classes`.
    execution: How it is computed, which changes no result beyond rounding.

  Raises:
    ValueError: A section is missing, or a leaf is missing, has no meaning or an
      impossible value.
  """
  _check_sections(model)
  adapter = _adapter(model["adapter"], "adapter")
  encoder = _make(
    "encoder", ENCODERS, {"kind": "perceiver", **model["encoder"]}, execution
  )
  decoder = _decoder(model, adapter, execution)
  return perceiver.Perceiver(adapter, encoder, decoder, name="perceiver")


def num_inputs(
  model: Mapping[str, Any], raw: Mapping[str, Any]
) -> dict[str, int]:
  """Counts the elements of each modality in a multimodal input array.

  Args:
    model: A spec whose adapter is multimodal.
    raw: Raw data by modality, or their shapes and types.

  Returns:
    The numbers in the order in which the modalities are concatenated.
  """
  counts = {}
  for name, section in sorted(model["adapter"]["modalities"].items()):
    adapter = hk.transform_with_state(
      lambda x, section=section: _adapter(section, "adapter")(
        x, is_training=True
      )
    )

    def apply(x, adapter=adapter):
      return adapter.apply(*adapter.init(jax.random.key(0), x), None, x)[0]

    counts[name] = jax.eval_shape(apply, raw[name]).shape[1]
  return counts


def _adapter(section: Mapping[str, Any], name: str) -> Any:
  leaves = {"kind": "image", **section}
  if leaves["kind"] == "multimodal":
    leaves["adapters"] = {
      modality: _adapter(part, f"{modality}_adapter")
      for modality, part in leaves.pop("modalities").items()
    }
  return _make(name, ADAPTERS, leaves)


def _decoder(
  model: Mapping[str, Any], adapter: Any, execution: Execution
) -> Any:
  leaves = dict(model["decoder"])
  kind = leaves.get("kind")
  if "num_classes" in model:  # Only classifiers accept it, and they need it.
    leaves["num_classes"] = model["num_classes"]
  if kind in ("masked_lm", "token"):
    leaves["adapter"] = adapter
  if kind == "multimodal":
    leaves["outputs"] = multimodal.outputs_of(leaves["outputs"])
  return _make("decoder", DECODERS, leaves, execution)


def _make(
  name: str,
  kinds: Mapping[str, Callable[..., Any]],
  leaves: Mapping[str, Any],
  execution: Execution | None = None,
) -> Any:
  """Makes the module that a section of a spec describes."""
  arguments = {"name": name, **leaves}
  kind = arguments.pop("kind", None)
  if kind not in kinds:
    part = name.split("_")[-1]
    raise ValueError(f"{part} kind {kind!r}: choose one of {', '.join(kinds)}")
  if execution is not None:
    arguments["execution"] = execution
  try:
    return kinds[kind](**arguments)
  except TypeError as error:  # A leaf is unknown, missing or of a wrong type.
    raise ValueError(f"{name} of kind {kind!r}: {error}") from error

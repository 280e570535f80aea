"""Builds any model of the papers from a spec, at any size.

A spec is a plain mapping with sections `adapter`, `encoder` and `decoder`, so a
config file can hold it, change it and hand it back to `build`. The specs of the
papers' models are in `published`.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from perceiver_jax.models import decoders, perceiver
from perceiver_jax.models import encoder as encoder_lib
from perceiver_jax.models.adapters import (
  audio,
  flow,
  image,
  multimodal,
  points,
  text,
  units,
)
from perceiver_jax.models.published import MODELS

ADAPTERS: dict[str, Callable[..., Any]] = {
  "image": image.ImageAdapter,
  "audio": audio.AudioAdapter,
  "text": text.TextAdapter,
  "flow": flow.FlowAdapter,
  "points": points.PointsAdapter,
  "units": units.UnitsAdapter,
  "label": multimodal.LabelAdapter,
}
DECODERS = ("query", "average", "masked_lm", "flow", "multimodal", "units")


def spec(name: str) -> dict[str, Any]:
  """A copy of the spec of a model of the papers.

  Raises:
    ValueError: `name` is not in `MODELS`.
  """
  if name not in MODELS:
    raise ValueError(f"model {name!r}: choose one of {', '.join(MODELS)}")
  return copy.deepcopy(dict(MODELS[name].spec))


def build(model: Mapping[str, Any]) -> perceiver.Perceiver:
  """Builds a model from a spec, inside a Haiku transform.

  Args:
    model: A mapping like those of `spec`: `adapter` (its `kind`, "image" if not
      given, and arguments), `encoder` (fields of `EncoderConfig`), `decoder`
      (its `kind` and arguments) and, for classifiers, `num_classes`.

  Raises:
    ValueError: A leaf has no meaning or an impossible value.
  """
  adapter = _adapter(model["adapter"])
  encoder = encoder_lib.PerceiverEncoder(
    encoder_lib.EncoderConfig(**model["encoder"]), name="encoder"
  )
  decoder = _decoder(model, adapter)
  return perceiver.Perceiver(adapter, encoder, decoder, name="perceiver")


def _adapter(section: Mapping[str, Any], name: str = "adapter") -> Any:
  arguments = dict(section)
  kind = arguments.pop("kind", "image")
  if kind == "multimodal":
    parts = {
      modality: _adapter(part, f"{modality}_adapter")
      for modality, part in arguments.pop("modalities").items()
    }
    return multimodal.MultimodalAdapter(parts, name=name, **arguments)
  if kind not in ADAPTERS:
    choices = ", ".join([*ADAPTERS, "multimodal"])
    raise ValueError(f"adapter kind {kind!r}: choose one of {choices}")
  return ADAPTERS[kind](name=name, **arguments)


def _decoder(model: Mapping[str, Any], adapter: Any) -> Any:
  arguments = {"name": "decoder", **model["decoder"]}
  kind = arguments.pop("kind")
  if kind == "query":
    return decoders.ClassQueryDecoder(model["num_classes"], **arguments)
  if kind == "average":
    return decoders.AverageDecoder(model["num_classes"], **arguments)
  if kind == "masked_lm":
    return text.MaskedLmDecoder(adapter, **arguments)
  if kind == "flow":
    return flow.FlowDecoder(**arguments)
  if kind == "multimodal":
    outputs = multimodal.outputs_of(arguments.pop("outputs"))
    return multimodal.MultimodalDecoder(outputs, **arguments)
  if kind == "units":
    return units.UnitsDecoder(**arguments)
  raise ValueError(
    f"decoder kind {kind!r}: choose one of {', '.join(DECODERS)}"
  )

"""The papers' models by name, each with its published size.

A spec is a plain mapping with sections `adapter`, `encoder` and `decoder`, so a
config file can hold it, change it and hand it back to `build`.
"""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from perceiver_jax.models import perceiver
from perceiver_jax.models.adapters import image

DECODERS = ("query", "average")

_FOURIER = {
  "preparation": "pixels",
  "position_encoding": "fourier",
  "num_bands": 64,
  "max_resolution": (224, 224),
}
_LEARNED = {
  "preparation": "conv1x1",
  "num_channels": 256,
  "position_encoding": "trainable",
  "num_position_channels": 256,
  "project_positions": 256,
}
_CONV = {
  "preparation": "conv",
  "num_channels": 64,
  "spatial_downsample": 4,
  "position_encoding": "fourier",
  "num_bands": 64,
  "max_resolution": (56, 56),
}
_QUERY = {"kind": "query", "num_query_channels": 1024}


class Entry(NamedTuple):
  """A model of the papers.

  Attributes:
    spec: What `build` takes.
    input_shape: Shape of one raw example.
    num_parameters: Exact number of trainable parameters.
    published: Size and cost as printed, with the table.
  """

  spec: Mapping[str, Any]
  input_shape: tuple[int, ...]
  num_parameters: int
  published: str


def _image(
  adapter: Mapping[str, Any],
  decoder: Mapping[str, Any],
  num_parameters: int,
  published: str,
  **encoder: Any,
) -> Entry:
  sizes = perceiver.EncoderConfig()._asdict() | encoder
  spec = {
    "num_classes": 1000,
    "adapter": adapter,
    "encoder": sizes,
    "decoder": decoder,
  }
  return Entry(spec, (224, 224, 3), num_parameters, published)


_NO_RESIDUAL = _QUERY | {"use_query_residual": False}
_AVERAGE = {"kind": "average"}

MODELS: dict[str, Entry] = {
  "imagenet_fourier": _image(
    _FOURIER, _QUERY, 48_440_627, "48.4M, 407B (IO, Table 8)"
  ),
  "imagenet_learned": _image(
    _LEARNED, _NO_RESIDUAL, 62_255_848, "62.3M, 407B (IO, Table 8)"
  ),
  "imagenet_conv": _image(
    _CONV, _QUERY, 48_646_522, "48.6M, 369B (IO, Table 8)"
  ),
  "imagenet_icml": _image(
    _FOURIER,
    _AVERAGE,
    44_912_254,
    "44.9M, 707.2B (Perceiver, Table 6)",
    num_cross_attends=8,
  ),
  "imagenet_icml_1": _image(
    _FOURIER, _AVERAGE, 42_135_859, "42.1M, 404.3B (Perceiver, Table 6)"
  ),
  "imagenet_icml_unshared": _image(
    _FOURIER,
    _AVERAGE,
    326_241_856,
    "326.2M, 707.2B (Perceiver, Table 7)",
    num_cross_attends=8,
    share_cross_attends="none",
    share_blocks=False,
  ),
}


def spec(name: str) -> dict[str, Any]:
  """A copy of the spec of a model of the papers.

  Raises:
    ValueError: `name` is not in `MODELS`.
  """
  if name not in MODELS:
    raise ValueError(f"model {name!r}: choose one of {', '.join(MODELS)}")
  return copy.deepcopy(dict(MODELS[name].spec))


def build(model: Mapping[str, Any]) -> perceiver.Perceiver:
  """Builds an image classifier from a spec, inside a Haiku transform.

  Args:
    model: A mapping like those of `spec`.

  Raises:
    ValueError: A leaf has no meaning or an impossible value.
  """
  decoder = dict(model["decoder"])
  kind = decoder.pop("kind")
  if kind == "query":
    decode = perceiver.ClassQueryDecoder(
      model["num_classes"], name="decoder", **decoder
    )
  elif kind == "average":
    decode = perceiver.AverageDecoder(model["num_classes"], name="decoder")
  else:
    raise ValueError(
      f"decoder kind {kind!r}: choose one of {', '.join(DECODERS)}"
    )
  return perceiver.Perceiver(
    image.ImageAdapter(name="adapter", **model["adapter"]),
    perceiver.PerceiverEncoder(
      perceiver.EncoderConfig(**model["encoder"]), name="encoder"
    ),
    decode,
    name="perceiver",
  )

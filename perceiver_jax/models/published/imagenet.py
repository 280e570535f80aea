"""ImageNet classifiers (Perceiver, section 4.1; IO, app. A)."""

from collections.abc import Mapping
from typing import Any

from perceiver_jax.models.published.entry import Entry, array, encoder

_FOURIER = {
  "prep_type": "pixels",
  "position_encoding": "fourier",
  "num_bands": 64,
  "max_resolution": (224, 224),
}
# RGB projected to 256 channels before positions are appended (IO, app. A.2).
_PROJECTED_FOURIER = _FOURIER | {"prep_type": "conv1x1", "num_channels": 256}
_LEARNED = {
  "prep_type": "conv1x1",
  "num_channels": 256,
  "position_encoding": "trainable",
  "num_position_channels": 256,
  "project_positions": 256,
}
# The ICML model's table: 128 channels beside RGB, started with scale 1.0.
_ICML_LEARNED = {
  "prep_type": "pixels",
  "position_encoding": "trainable",
  "num_position_channels": 128,
  "position_init_scale": 1.0,
}
_CONV = {
  "prep_type": "conv",
  "num_channels": 64,
  "spatial_downsample": 4,
  "position_encoding": "fourier",
  "num_bands": 64,
  "max_resolution": (56, 56),
}
_QUERY = {"kind": "classification", "num_query_channels": 1024}
_NO_RESIDUAL = _QUERY | {"use_query_residual": False}
_AVERAGE = {"kind": "average_and_project"}

# 254 channels beside 258 of positions make 512, which 8 heads divide.
_TRANSFORMER = {
  "prep_type": "conv1x1",
  "num_channels": 254,
  "position_encoding": "fourier",
  "num_bands": 64,
  "max_resolution": (64, 64),
}


def _image(
  adapter: Mapping[str, Any],
  decoder: Mapping[str, Any],
  num_parameters: int,
  note: str = "",
  **sizes: Any,
) -> Entry:
  spec = {
    "num_classes": 1000,
    "adapter": dict(adapter),
    "encoder": encoder(**sizes),
    "decoder": dict(decoder),
  }
  return Entry(spec, array(224, 224, 3), num_parameters, note)


def _transformer() -> Entry:
  spec = {
    "num_classes": 1000,
    "adapter": dict(_TRANSFORMER),
    "encoder": {
      "kind": "transformer",
      "num_layers": 12,
      "num_heads": 8,
      "widening_factor": 4,
    },
    "decoder": dict(_AVERAGE),
  }
  return Entry(spec, array(64, 64, 3), 38_342_624)


_JFT = {
  "num_blocks": 1,
  "num_self_attends_per_block": 16,
  "self_attend_widening_factor": 4,
}
_JFT_NOTE = "the published operations are those of 12 layers, not of 16"

MODELS = {
  "imagenet_fourier": _image(
    _FOURIER, _QUERY, 48_440_627
  ),
  "imagenet_learned": _image(
    _LEARNED,
    _NO_RESIDUAL,
    62_255_848,
    note="the published operations are those of the Fourier row; its 512 input"
    " channels cost more",
  ),
  "imagenet_conv": _image(_CONV, _QUERY, 48_646_522),
  "imagenet_fourier_average": _image(
    _FOURIER, _AVERAGE, 42_135_859
  ),
  "imagenet_learned_average": _image(
    _LEARNED,
    _AVERAGE,
    55_951_080,
    note="55,885,288 without the projection of positions, which rounds to the"
    " published figure; the query decoder's row fits with it only",
  ),
  "imagenet_conv_average": _image(
    _CONV,
    _AVERAGE,
    42_341_754,
    note="the published parameters repeat the Fourier row",
  ),
  "imagenet_jft_fourier": _image(
    _FOURIER, _QUERY, 212_170_035,
    note=_JFT_NOTE, **_JFT,
  ),
  "imagenet_jft_fourier_projected": _image(
    _PROJECTED_FOURIER, _QUERY, 213_082_618,
    note=_JFT_NOTE + "; the published parameters are those without the"
    " projection of RGB to 256 channels, which app. A.2 states", **_JFT,
  ),
  "imagenet_jft_conv": _image(
    _CONV, _QUERY, 212_375_930,
    note=_JFT_NOTE, **_JFT,
  ),
  "imagenet_icml": _image(
    _FOURIER, _AVERAGE, 44_912_254,
    num_cross_attends=8,
  ),
  "imagenet_icml_1": _image(
    _FOURIER, _AVERAGE, 42_135_859
  ),
  "imagenet_icml_2": _image(
    _FOURIER, _AVERAGE, 44_912_254,
    num_cross_attends=2,
  ),
  "imagenet_icml_4": _image(
    _FOURIER, _AVERAGE, 44_912_254,
    num_cross_attends=4,
  ),
  "imagenet_icml_start": _image(
    _FOURIER, _AVERAGE, 44_912_254,
    num_cross_attends=8, cross_attend_placement="start",
  ),
  "imagenet_icml_unshared": _image(
    _FOURIER, _AVERAGE, 326_241_856,
    num_cross_attends=8, share_cross_attends="none", share_blocks=False,
  ),
  "imagenet_icml_learned": _image(
    _ICML_LEARNED, _AVERAGE, 48_189_577
  ),
  "imagenet_icml_cross_only_4": _image(
    _FOURIER, _AVERAGE, 12_654_868,
    num_cross_attends=4, share_cross_attends="none", num_blocks=4,
    num_self_attends_per_block=0,
  ),
  "imagenet_icml_figure_5": _image(
    _FOURIER, _AVERAGE, 15_264_382,
    num_latent_channels=512, num_cross_attends=2, share_cross_attends="none",
    num_blocks=2, num_self_attends_per_block=4, share_blocks=False,
  ),
  "imagenet_transformer_64": _transformer(),
}  # fmt: skip
